"""Orders in which synapses are shown: each returns rows of the table, the first one first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from synpol.errors import InputError
from synpol.review.found import Found
from synpol.review.matching import EXCHANGED, LOST, UNCLEAR, match_places
from synpol.synapses.reading import read_table
from synpol.synapses.table import values_of

#: most synapses among which the most useful ones are searched, and most verdicts that are looked at
POOL, MEMORY = 20_000, 2_000
#: width of the likeness of two synapses, in spreads of a column
WIDTH = 0.7


def by_score(found: Found, *, lowest_first: bool = True) -> np.ndarray:
    """Return all rows by score; equal scores by number."""
    return np.argsort(found.score if lowest_first else -found.score, kind="stable")


def by_place(found: Found, place: Sequence[float]) -> np.ndarray:
    """Return all rows by distance from a place (z, y, x; nm), the nearest first."""
    away = ((found.middle - np.asarray(place, float)) ** 2).sum(axis=1)
    return np.argsort(away, kind="stable")


def by_neuron(found: Found, partners: str, neuron: int) -> np.ndarray:
    """Return the rows of the synapses that a neuron makes or receives, by score, lowest first.

    Raises
    ------
    InputError
        There is no table of partners, or it is of other synapses.
    """
    pre, post = partners_of(found, partners)
    own = np.flatnonzero((pre == neuron) | (post == neuron))
    return own[np.argsort(found.score[own], kind="stable")]


def partners_of(found: Found, partners: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the neurons on the pre and on the post side of each synapse; 0 for none.

    Raises
    ------
    InputError
        As `by_neuron`.
    """
    rows = read_table(partners, ["synapse_id", "pre_id", "post_id"])
    number = values_of(rows["synapse_id"])
    if len(number) != len(found) or (number != found.number).any():
        raise InputError(
            f"{partners} is of other synapses than the table beside it; run pipelines/connect.py "
            "of synpol's repository again, or remove it"
        )
    return values_of(rows["pre_id"]), values_of(rows["post_id"])


def disagreement(found: Found, others: Sequence[Found], distance: float) -> np.ndarray:
    """Return how many other results see each synapse otherwise, as a share of them; (n,) float64.

    Another result sees it otherwise where it has no synapse within the distance, or one whose sides
    are exchanged.
    """
    total = np.zeros(len(found))
    for other in others:
        tie = match_places(other, found.pre, found.post, found.voxels, distance).tie
        total += (tie == LOST) | (tie == EXCHANGED) | (tie == UNCLEAR)
    return total / max(1, len(others))


def by_disagreement(found: Found, others: Sequence[Found], distance: float) -> np.ndarray:
    """Return the rows on which other results disagree, most of them first, then by score."""
    share = disagreement(found, others, distance)
    order = np.lexsort((found.score, -share))
    return order[share[order] > 0]


def most_useful(
    like: np.ndarray, prior: np.ndarray, rows: np.ndarray, is_right: np.ndarray, count: int
) -> np.ndarray:
    """Choose the synapses whose verdicts would tell most: uncertain, and unlike those judged.

    Among synapses that are like each other, the share of right ones has a Beta distribution: the
    score counts as one verdict, and each verdict as much as its synapse is like. The synapse with
    the largest variance is chosen; it then counts as judged, so that the next one is another kind.

    Parameters
    ----------
    like : (n, k) float64
        What tells synapses apart (`synpol.review.found.read_like`).
    prior : (n,) float64
        Probability that each is right before any verdict.
    rows : (v,) int64
        Synapses that were judged.
    is_right : (v,) bool
        Their verdicts.
    count : int
        Number of synapses to choose.

    Returns
    -------
    (count,) int64
        Rows, the most useful first; none of `rows`.
    """
    rows, is_right = rows[-MEMORY:], np.asarray(is_right, float)[-MEMORY:]
    free = np.setdiff1d(np.arange(len(like)), rows)
    right, wrong = prior[free].copy(), 1 - prior[free]
    for row, answer in zip(rows.tolist(), is_right.tolist(), strict=True):
        weight = _likeness(like[free], like[row])
        right += weight * answer
        wrong += weight * (1 - answer)
    chosen: list[int] = []
    for _ in range(min(count, len(free))):
        total = right + wrong
        variance = right * wrong / (total**2 * (total + 1))
        variance[chosen] = -1
        best = int(np.argmax(variance))
        chosen.append(best)
        weight, mean = _likeness(like[free], like[free[best]]), right[best] / total[best]
        right += weight * mean
        wrong += weight * (1 - mean)
    return free[chosen]


def _likeness(like: np.ndarray, one: np.ndarray) -> np.ndarray:
    """Return how like each row is to one, 0..1."""
    return np.exp(-((like - one) ** 2).sum(axis=1) / (2 * WIDTH**2))
