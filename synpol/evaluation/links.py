"""Score links against true links: which of them join the same neurons near the same places.

Links are matched one to one, at least cost, in tables of any length: only pairs that lie within
the distance of the rule, and join the same two neurons where the rule asks for that, are looked at.
A figure means little without its rule; `RULES` holds those of other projects by name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from synpol.evaluation.matching import Matching, best_pairs
from synpol.synapses.links import Links, pair_numbers

#: how many links are compared at once
_AT_ONCE = 100_000


@dataclass(frozen=True)
class LinkRule:
    """When a predicted link counts as a true one.

    Attributes
    ----------
    ends : {"pre", "post", "both"}
        Ends that have to lie near each other.
    distance : float
        Largest distance of two such ends, nm.
    same_neurons : bool
        Whether both links have to join the same two neurons; then one whose neurons are unknown
        matches nothing.
    duplicates : float
        Predicted links of one pair of neurons whose post ends lie within this many nm of each other
        are one: the one with the best score. 0: all count.
    within : bool
        Whether predicted links from a neuron to itself count.
    """

    ends: Literal["pre", "post", "both"]
    distance: float
    same_neurons: bool
    duplicates: float = 0.0
    within: bool = True


#: rules of other projects
RULES = {
    # https://cremi.org/metrics: both ends, mean distance as cost
    "cremi": LinkRule("both", 400.0, same_neurons=True),
    # Buhmann et al., Nature Methods 2021, and their repository synful_fafb
    "synful": LinkRule("pre", 700.0, same_neurons=True, duplicates=250.0, within=False),
}


@dataclass(frozen=True)
class LinkScores:
    """Scores of predicted links.

    Attributes
    ----------
    matching : Matching
        Counts and scores. Its pairs are rows of both tables and their distance in nm; each stands
        once there, whatever `neurons` it was counted for.
    duplicates : int
        Number of predicted links that were left out because they repeat others.
    left_out : int
        Number of predicted links that were left out by the rule: within a neuron, or an end in no
        segment.
    recall_of_one_post : float
        Largest recall that a format with one post for each presynaptic site can reach: the number
        of true sites, divided by that of true links.
    edges : list of dict
        For each number of links that makes a connection: precision and recall of the connections.
    curve : list of dict
        Scores of the links whose score is at least ``score``.
    """

    matching: Matching
    duplicates: int
    left_out: int
    recall_of_one_post: float
    edges: list[dict[str, Any]]
    curve: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """Return everything but the pairs, as JSON has it."""
        low, high = self.matching.f1_interval()
        return {
            **self.matching.scores(),
            "f1_interval": [low, high],
            "duplicates": self.duplicates,
            "left_out": self.left_out,
            "recall_of_one_post": self.recall_of_one_post,
            "edges": self.edges,
            "curve": self.curve,
        }


def score_links(
    predicted: Links,
    truth: Links,
    rule: LinkRule,
    *,
    neurons: np.ndarray | None = None,
    cutoffs: int = 20,
    site_distance: float = 50.0,
) -> LinkScores:
    """Score predicted links against true ones.

    Parameters
    ----------
    predicted, truth : Links
        Both tables, in the same world.
    rule : LinkRule
        When a link counts as found.
    neurons : (n,) int64, optional
        Neurons that are scored: a link counts once for each of its neurons that is listed. By
        default all links count once.
    cutoffs : int
        Number of scores at which the curve is computed, quantiles of the predicted ones.
    site_distance : float
        True links of one neuron whose pre ends lie within this distance (nm) leave from one site.

    Returns
    -------
    LinkScores

    Examples
    --------
    >>> import numpy as np
    >>> truth = Links.of([[0, 0, 0]], [[0, 0, 200]], [7], [9])
    >>> predicted = Links.of([[0, 0, 30]], [[0, 0, 220]], [7], [9], [0.8])
    >>> score_links(predicted, truth, RULES["cremi"]).matching.f1
    1.0
    """
    counted = ~predicted.no_segment
    if not rule.within:
        counted &= ~(predicted.known & (predicted.pre_id == predicted.post_id))
    ours = predicted[counted]
    kept = unique_links(ours, rule.duplicates)
    rows = np.flatnonzero(counted)[kept]
    matching = _match(ours[kept], truth, rule, neurons)
    pairs = tuple((int(rows[i]), j, d) for i, j, d in matching.pairs)
    return LinkScores(
        matching=replace(matching, pairs=pairs),
        duplicates=len(ours) - len(kept),
        left_out=int((~counted).sum()),
        recall_of_one_post=_sites(truth, site_distance) / max(1, len(truth)),
        edges=_edges(ours[kept], truth, neurons),
        curve=[
            {"score": float(cutoff), **_match(ours[above], truth, rule, neurons).scores()}
            for cutoff, above in _cutoffs(ours, rule.duplicates, cutoffs)
        ],
    )


def unique_links(links: Links, distance: float) -> np.ndarray:
    """Find the best link of each that stands several times in a table.

    Parameters
    ----------
    links : Links
        Links of one table; those whose neurons are unknown repeat nothing.
    distance : float
        Links of one pair of neurons whose post ends lie within this distance (nm) of each other,
        also by way of others, are one.

    Returns
    -------
    (m,) int64
        Rows that stay, ascending: of each group the one with the best score, the first of several.
    """
    best = first_of_repeated(links, distance)
    return np.flatnonzero(best == np.arange(len(links)))


def first_of_repeated(links: Links, distance: float) -> np.ndarray:
    """Find for each link the best one of those that are the same link.

    Parameters
    ----------
    links, distance
        As in `unique_links`.

    Returns
    -------
    (n,) int64
        Row of the link with the best score, the first of several; its own row for a link that
        stands alone.
    """
    own = np.arange(len(links))
    if not distance or not len(links):
        return own
    (pair,) = pair_numbers(links)
    i, j = near(links.post, links.post, distance)
    same = (pair[i] == pair[j]) & links.known[i]
    group = groups(i[same], j[same], len(links))
    order = np.lexsort((own, -np.nan_to_num(links.score), group))
    _, first = np.unique(group[order], return_index=True)
    return np.asarray(order[first][group])


def near(a: np.ndarray, b: np.ndarray, distance: float) -> tuple[np.ndarray, np.ndarray]:
    """Find all pairs of places within a distance: rows in `a` and in `b`."""
    tree, rows = KDTree(b), [np.zeros((0, 2), np.int64)]
    for begin in range(0, len(a), _AT_ONCE):
        found = tree.query_ball_point(a[begin : begin + _AT_ONCE], distance)
        size = np.fromiter(map(len, found), np.int64, len(found))
        one = np.repeat(np.arange(begin, begin + len(found)), size)
        other = np.fromiter((row for rows in found for row in rows), np.int64, int(size.sum()))
        rows.append(np.stack([one, other], axis=1))
    i, j = np.concatenate(rows).T
    return i, j


def _match(predicted: Links, truth: Links, rule: LinkRule, neurons: np.ndarray | None) -> Matching:
    """Match two tables; the scores count a link for each listed neuron."""
    i, j, cost = candidates(predicted, truth, rule)
    chosen = best_pairs(i, j, 2 * rule.distance - cost, most=False)
    pairs = [
        (int(a), int(b), float(c))
        for a, b, c in zip(i[chosen], j[chosen], cost[chosen], strict=True)
    ]
    if neurons is None:
        return Matching.of(pairs, len(predicted), len(truth))
    ours, true = _times(predicted, neurons), _times(truth, neurons)
    count = int(true[j[chosen]].sum())
    counted = Matching.of([(0, 0, 0.0)] * count, int(ours.sum()), int(true.sum()))
    listed = [pair for pair in pairs if true[pair[1]]]
    return replace(counted, pairs=tuple(sorted(listed)))


def candidates(
    predicted: Links, truth: Links, rule: LinkRule
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the pairs of rows that may match: rows of both tables, and the distance in nm."""
    first = "post" if rule.ends == "post" else "pre"
    i, j = near(getattr(predicted, first), getattr(truth, first), rule.distance)
    if rule.same_neurons:
        ours, true = pair_numbers(predicted, truth)
        same = (ours[i] == true[j]) & truth.known[j]
        i, j = i[same], j[same]
    ends = ("pre", "post") if rule.ends == "both" else (first,)
    distances = [
        np.linalg.norm(getattr(predicted, end)[i] - getattr(truth, end)[j], axis=1) for end in ends
    ]
    possible = np.max(distances, axis=0) <= rule.distance
    return i[possible], j[possible], np.mean(distances, axis=0)[possible]


def _times(links: Links, neurons: np.ndarray) -> np.ndarray:
    """Count for each link how many of its neurons are listed; (n,) int64."""
    pre, post = np.isin(links.pre_id, neurons), np.isin(links.post_id, neurons)
    return pre.astype(np.int64) + (post & (links.post_id != links.pre_id))


def _sites(truth: Links, distance: float) -> int:
    """Count the presynaptic sites of links."""
    if not len(truth):
        return 0
    i, j = near(truth.pre, truth.pre, distance)
    same = truth.pre_id[i] == truth.pre_id[j]
    return len(np.unique(groups(i[same], j[same], len(truth))))


def groups(i: np.ndarray, j: np.ndarray, count: int) -> np.ndarray:
    graph = coo_array((np.ones(len(i), np.uint8), (i, j)), shape=(count, count))
    return connected_components(graph, directed=False)[1]


def _cutoffs(links: Links, duplicates: float, count: int) -> list[tuple[float, np.ndarray]]:
    """Choose cutoffs of the score, and the rows that each of them leaves."""
    if count < 2 or not len(links) or not np.isfinite(links.score).all():
        return []
    scores = np.unique(np.quantile(links.score, np.linspace(0, 1, count, endpoint=False)))
    result = []
    for score in scores:
        above = np.flatnonzero(links.score >= score)
        result.append((float(score), above[unique_links(links[above], duplicates)]))
    return result


def _edges(
    predicted: Links, truth: Links, neurons: np.ndarray | None, most: int = 10
) -> list[dict[str, Any]]:
    """Score the connections between neurons, by how many links make one."""
    counts = []
    for links in (predicted, truth):
        links = links[links.known]
        if neurons is not None:
            links = links[_times(links, neurons) > 0]
        pairs = np.stack([links.pre_id, links.post_id], axis=1)
        counts.append(np.unique(pairs, axis=0, return_counts=True))
    rows = []
    for least in range(1, most + 1):
        ours, true = ({tuple(p) for p in pairs[n >= least].tolist()} for pairs, n in counts)
        if not ours and not true:
            break
        both = len(ours & true)
        rows.append(
            {
                "links": least,
                "predicted": len(ours),
                "truth": len(true),
                "matched": both,
                "precision": both / len(ours) if ours else 0.0,
                "recall": both / len(true) if true else 0.0,
            }
        )
    return rows


def described(rule: LinkRule) -> str:
    """Say a rule in words, for the table and the report."""
    ends = "both ends" if rule.ends == "both" else f"the {rule.ends} ends"
    said = [f"{ends} within {rule.distance:g} nm"]
    said.append("the same two neurons" if rule.same_neurons else "any neurons")
    if rule.duplicates:
        said.append(f"repeated links (post ends within {rule.duplicates:g} nm) once")
    if not rule.within:
        said.append("none within a neuron")
    return ", ".join(said)
