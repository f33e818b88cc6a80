"""Tie verdicts to the synapses of a table by place, also after another decoding.

A verdict knows the centroids of both sides. It belongs to the nearest synapse whose two sides both
lie within a distance of these. What a person has to look at again is told apart: sides that are
exchanged, two synapses that are about equally near, a synapse that has another size now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from synpol.review.found import Found
from synpol.review.verdicts import Verdict

#: ties between a verdict and a synapse
SAME, MOVED, CHANGED, EXCHANGED, UNCLEAR, LOST = range(6)
TIES = ("same", "moved", "changed", "exchanged", "unclear", "lost")
#: nm by which the same synapse may differ after text and other programs
EXACT = 0.01
#: synapses around a place that are compared with it
NEIGHBOURS = 8
#: places that are few: only synapses around them are looked at
FEW = 10_000
#: ratio of sizes from which on a synapse is another one than was judged
GROWTH = 1.5
#: verdicts about the outline, which another outline makes void
OF_OUTLINE = ("merged", "split", "outline")
#: what a verdict says about the same place with exchanged sides
_TURNED = {"right": "flipped", "flipped": "right"}


@dataclass(frozen=True)
class Matched:
    """Rows that verdicts belong to.

    Attributes
    ----------
    row : (v,) int64
        Row of the synapse; -1 where there is none, or it is not clear which.
    tie : (v,) int64
        `SAME`, `MOVED`, ...
    """

    row: np.ndarray
    tie: np.ndarray


def match_places(
    found: Found, pre: np.ndarray, post: np.ndarray, voxels: np.ndarray, distance: float
) -> Matched:
    """Find the synapse at each of many places.

    Parameters
    ----------
    found : Found
    pre, post : (v, 3) float64
        Centroids of both sides of each place, z, y, x; nm.
    voxels : (v, 2) int64
        Size of both sides.
    distance : float
        Largest distance of a side, nm.
    """
    count = len(pre)
    row, tie = np.full(count, -1), np.full(count, LOST)
    if not count or not len(found):
        return Matched(row, tie)
    middles = found.middle
    near = np.arange(len(found))
    if count <= FEW:  # most synapses are far from all of them
        near = np.flatnonzero(_near(middles, (pre + post) / 2, distance))
    if not len(near):
        return Matched(row, tie)
    some = found[near]
    tree = cKDTree(middles[near])
    _, close = tree.query((pre + post) / 2, k=NEIGHBOURS, distance_upper_bound=distance)
    gaps, at, use_turned = _nearest(some, close, pre, post, distance)
    hit = np.isfinite(gaps[:, 0])
    row[hit] = near[at[hit, 0]]
    sizes = np.maximum(some.voxels[np.where(hit, at[:, 0], 0)], 1)
    sizes = np.where(use_turned[:, None], sizes[:, ::-1], sizes)
    ratio = sizes / np.maximum(voxels, 1)
    known = voxels.any(axis=1)
    changed = known & ((ratio > GROWTH) | (ratio < 1 / GROWTH)).any(axis=1)
    exact = (gaps[:, 0] <= EXACT) & (~known | (ratio == 1).all(axis=1))
    unclear = (gaps[:, 0] > EXACT) & (gaps[:, 1] < 2 * gaps[:, 0])
    tie[hit] = np.select(
        [exact & ~use_turned, unclear, use_turned, changed],
        [SAME, UNCLEAR, EXCHANGED, CHANGED],
        MOVED,
    )[hit]
    row[tie == UNCLEAR] = -1
    return Matched(row, tie)


def _nearest(
    found: Found, close: np.ndarray, pre: np.ndarray, post: np.ndarray, distance: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the two nearest synapses of each place.

    Returns
    -------
    (v, 2) float64
        Distances, of the side that is farther away; infinite where there is none.
    (v, 2) int64
        Rows.
    (v,) bool
        Whether the nearest one points the other way, so that its sides are exchanged.
    """
    valid = close < len(found)
    rows = np.where(valid, close, 0)
    first, last = found.pre[rows], found.post[rows]
    turned = ((last - first) * (post - pre)[:, None]).sum(axis=2) < 0
    first, last = (np.where(turned[..., None], *pair) for pair in ((last, first), (first, last)))
    gaps = np.maximum(
        np.linalg.norm(first - pre[:, None], axis=2), np.linalg.norm(last - post[:, None], axis=2)
    )
    gaps = np.where(valid & (gaps <= distance), gaps, np.inf)
    order = np.argsort(gaps, axis=1, kind="stable")[:, :2]
    gaps, rows, turned = (np.take_along_axis(a, order, 1) for a in (gaps, rows, turned))
    return gaps, rows, turned[:, 0]


def _near(middles: np.ndarray, places: np.ndarray, distance: float) -> np.ndarray:
    """Return which middles may lie within a distance of a place, by cells; quick for many."""
    size = max(distance, 1.0)
    low = places.min(axis=0) - 2 * size
    inside = ((middles >= low) & (middles <= places.max(axis=0) + 2 * size)).all(axis=1)
    rows = np.flatnonzero(inside)
    cells = np.floor((middles[rows] - low) / size).astype(np.int64)
    own = np.unique(np.floor((places - low) / size).astype(np.int64), axis=0)
    steps = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), -1).reshape(-1, 3)
    wanted = (own[:, None] + steps).reshape(-1, 3)
    span = np.maximum(cells.max(axis=0, initial=0), wanted.max(axis=0)) + 3
    weights = np.array([span[1] * span[2], span[2], 1])
    near = np.zeros(len(middles), bool)
    near[rows] = np.isin((cells + 1) @ weights, np.unique((wanted + 1) @ weights))
    return near


@dataclass(frozen=True)
class Opinion:
    """A verdict that stands, about a row of the table.

    Attributes
    ----------
    row : int
    verdict : str
        What it says about the synapse as it is now.
    tie : int
        How the verdict and the synapse belong together.
    source : Verdict
    """

    row: int
    verdict: str
    tie: int
    source: Verdict


def tie_verdicts(
    found: Found, verdicts: Sequence[Verdict], distance: float, digest: str = ""
) -> Matched:
    """Find the synapse of each verdict.

    Parameters
    ----------
    found : Found
    verdicts : sequence of Verdict
    distance : float
        Largest distance of a side, nm.
    digest : str
        SHA-256 of the table; verdicts about this very table need no search.
    """
    row, tie = np.full(len(verdicts), -1), np.full(len(verdicts), LOST)
    number = np.array([one.synapse_id for one in verdicts], np.uint64)
    mine = np.array([bool(digest) and one.table_hash == digest for one in verdicts], bool)
    if len(found):
        at = np.minimum(np.searchsorted(found.number, number), len(found) - 1)
        mine &= found.number[at] == number
        row[mine], tie[mine] = at[mine], SAME
    others = np.flatnonzero(~mine)
    if len(others):
        some = [verdicts[i] for i in others.tolist()]
        matched = match_places(
            found,
            np.array([one.pre for one in some]),
            np.array([one.post for one in some]),
            np.array([(one.pre_voxels, one.post_voxels) for one in some]),
            distance,
        )
        row[others], tie[others] = matched.row, matched.tie
    return Matched(row, tie)


def opinions_of(
    verdicts: Sequence[Verdict], matched: Matched
) -> tuple[list[Opinion], list[tuple[Verdict, str]]]:
    """Say what verdicts mean for the synapses; the last one of a reviewer about a synapse counts.

    Parameters
    ----------
    verdicts : sequence of Verdict
        Verdicts about synapses that nobody has taken back, in their order.
    matched : Matched
        Their synapses.

    Returns
    -------
    list of Opinion
    list of (Verdict, str)
        Verdicts that belong to no synapse, or whose synapse has to be judged again, each with the
        reason, one of `TIES`.
    """
    opinions: dict[tuple[int, str], Opinion] = {}
    loose = []
    for one, row, tie in zip(verdicts, matched.row.tolist(), matched.tie.tolist(), strict=True):
        said = _TURNED.get(one.verdict, one.verdict) if tie == EXCHANGED else one.verdict
        if row < 0 or (tie in (CHANGED, EXCHANGED) and one.verdict in OF_OUTLINE):
            loose.append((one, TIES[tie]))
            continue
        opinions.pop((row, one.reviewer), None)  # the last one stands last
        opinions[row, one.reviewer] = Opinion(row, said, tie, one)
    return list(opinions.values()), loose
