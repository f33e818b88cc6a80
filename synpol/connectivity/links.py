"""Find which pre part of a synapse goes with which post part; docs/partners.md says the rules."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from synpol.connectivity.partners import Parts
from synpol.connectivity.rows import begins, first_of_each, grouped
from synpol.evaluation.links import first_of_repeated
from synpol.polarity import is_pre, partner_of, synapse_of
from synpol.synapses.links import Links

#: how many links of whole pairs of neurons are compared at once
_AT_ONCE = 1_000_000


def largest_pairs(parts: Parts) -> tuple[np.ndarray, np.ndarray]:
    """Pair the neuron with most voxels of the pre side with that of the post side; rows."""
    rows = parts.largest
    first = rows[is_pre(parts.label[rows])]
    second = rows[~is_pre(parts.label[rows])]
    pre, post = synapse_of(parts.label[first]), synapse_of(parts.label[second])
    _, i, j = np.intersect1d(pre, post, assume_unique=True, return_indices=True)
    return first[i], second[j]


def all_pairs(
    parts: Parts, min_voxels: int = 1, min_fraction: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Pair every part of a pre side with the parts of the post side that it goes with.

    Parameters
    ----------
    parts : Parts
        All parts of some synapses.
    min_voxels, min_fraction
        Fewest voxels of a part, and smallest share of its side, that count.

    Returns
    -------
    (n,) int64, (n,) int64
        Rows of the pre part and of the post part of each pair, sorted by synapse, pre neuron and
        post neuron.
    """
    kept = (parts.neuron != 0) & (parts.voxels >= min_voxels)
    kept &= parts.fraction >= min_fraction
    kept &= ~_held_on_the_other_side(parts, kept)
    touching = kept[parts.pre] & kept[parts.post]
    touching &= parts.neuron[parts.pre] != parts.neuron[parts.post]
    first, second, area = (a[touching] for a in (parts.pre, parts.post, parts.area))
    pre_side = is_pre(parts.label)
    post, pre = _best(parts, np.flatnonzero(kept & ~pre_side), second, first, area, kept)
    without = kept & pre_side
    without[pre] = False
    more_pre, more_post = _best(parts, np.flatnonzero(without), first, second, area, kept)
    pre, post = np.concatenate([pre, more_pre]), np.concatenate([post, more_post])
    order = np.lexsort((parts.neuron[post], parts.neuron[pre], parts.label[pre]))
    return pre[order], post[order]


def _held_on_the_other_side(parts: Parts, kept: np.ndarray) -> np.ndarray:
    """Find the smaller parts of neurons that hold parts of both sides of one synapse.

    They stay where the side would have no part else.
    """
    rows = np.flatnonzero(kept)
    other = parts.rows(partner_of(parts.label[rows]), parts.neuron[rows])
    there = (other >= 0) & kept[other]
    rows, other = rows[there], other[there]
    mine, theirs = parts.fraction[rows], parts.fraction[other]
    smaller = (mine < theirs) | ((mine == theirs) & ~is_pre(parts.label[rows]))
    result = np.zeros(len(kept), bool)
    result[rows[smaller]] = True
    side = np.cumsum(begins(parts.label)) - 1
    left = np.bincount(side, kept & ~result, len(result))
    return np.asarray(result & (left[side] > 0))


def _best(
    parts: Parts,
    rows: np.ndarray,
    touching: np.ndarray,
    touched: np.ndarray,
    area: np.ndarray,
    kept: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Find for each row its best counterpart: of the largest contact, else the nearest.

    `touching` and `touched` are the rows of each contact, on the side of `rows` and on the other.
    Rows of synapses without a counterpart are left out.
    """
    missing = np.zeros(len(kept), bool)
    missing[rows] = True
    wanted = missing[touching]
    mine, theirs = touching[wanted], touched[wanted]
    first = first_of_each(mine, -area[wanted], parts.neuron[theirs])
    mine, theirs = mine[first], theirs[first]
    missing[mine] = False
    i, j = _across(parts, np.flatnonzero(missing), kept)
    far = ((parts.anchor[i] - parts.anchor[j]) ** 2).sum(axis=1)
    itself = parts.neuron[i] == parts.neuron[j]
    first = first_of_each(i, itself, far, parts.neuron[j])
    return np.concatenate([mine, i[first]]), np.concatenate([theirs, j[first]])


def _across(parts: Parts, rows: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pair rows with every kept row of the other side of the same synapse."""
    label = partner_of(parts.label[rows])
    begin = np.searchsorted(parts.label, label)
    count = np.searchsorted(parts.label, label, side="right") - begin
    i, first = np.repeat(rows, count), np.repeat(begin, count)
    j = first + np.arange(len(i)) - np.repeat(np.cumsum(count) - count, count)
    return i[kept[j]], j[kept[j]]


def areas_of(parts: Parts, pre: np.ndarray, post: np.ndarray) -> np.ndarray:
    """Find the contact area of pairs of parts, nm^2."""
    code = parts.pre * np.int64(len(parts.label)) + parts.post
    wanted = pre * np.int64(len(parts.label)) + post
    row = np.minimum(np.searchsorted(code, wanted), max(0, len(code) - 1))
    area = np.zeros(len(pre))
    if len(code):
        there = code[row] == wanted
        area[there] = parts.area[row[there]]
    return area


def link_rows(parts: Parts, pre: np.ndarray, post: np.ndarray, area: np.ndarray) -> pa.Table:
    """Make rows of the table of links, but for scores and what follows from all links."""
    columns: dict[str, np.ndarray] = {"synapse_id": synapse_of(parts.label[pre])}
    sides = {"pre": pre, "post": post}
    columns |= {f"{side}_id": parts.neuron[rows] for side, rows in sides.items()}
    columns |= {
        f"{side}_{axis}": parts.anchor[rows, k]
        for side, rows in sides.items()
        for k, axis in enumerate("zyx")
    }
    columns |= {f"{side}_voxels": parts.voxels[rows] for side, rows in sides.items()}
    fraction = parts.fraction
    columns |= {f"{side}_fraction": fraction[rows] for side, rows in sides.items()}
    columns["contact_area"] = area
    columns["autapse"] = parts.neuron[pre] == parts.neuron[post]
    return pa.table(columns)


def duplicates_of(
    pre_id: np.ndarray, post_id: np.ndarray, post: np.ndarray, score: np.ndarray, distance: float
) -> np.ndarray:
    """Find links that repeat a better one of the same two neurons.

    Parameters
    ----------
    pre_id, post_id : (n,) uint64
        Neurons of each link.
    post : (n, 3) float64
        Places of the post ends, nm.
    score : (n,) float64
        Scores.
    distance : float
        As in `synpol.evaluation.links.first_of_repeated`.

    Returns
    -------
    (n,) int64
        Row of the best link of those that are one; its own row for a link that repeats none.
    """
    result = np.arange(len(pre_id))
    order = np.lexsort((pre_id, post_id))
    ids, into = grouped([post_id[order], pre_id[order]])
    start = np.searchsorted(into, np.arange(len(ids[0]) + 1))  # links of a pair lie together
    first = 0
    while first < len(ids[0]):
        last = max(first + 1, int(np.searchsorted(start, start[first] + _AT_ONCE, "right")) - 1)
        rows = order[start[first] : start[last]]
        pair = into[start[first] : start[last]] + 1  # small numbers in place of large ids
        links = Links.of(post[rows], post[rows], pair, pair, score[rows])
        result[rows] = rows[first_of_repeated(links, distance)]
        first = last
    return result
