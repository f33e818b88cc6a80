"""Mend what reviewers call split or merged: join parts of a synapse, take two synapses apart.

Both need the boxes of single synapses in memory, and nothing else. What cannot be told for sure is
left for a person, with its place and the reason.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import networkx as nx
import numpy as np
import pyarrow as pa
from scipy.ndimage import distance_transform_edt

from synpol.polarity import side_labels, split_labels
from synpol.review.apart import Apart, Separation, taken_apart
from synpol.review.found import Found
from synpol.review.known import Known
from synpol.review.volumes import FULL, Box, Volumes, box_around, sums_of, voxels_of
from synpol.synapses.statistics import Rows
from synpol.synapses.table import schema_of, synapse_rows

#: nm between the voxels of two synapses that may be parts of one
REACH = 100.0
#: voxels of a box that is held in memory
MOST_VOXELS = 2**24


@dataclass(frozen=True)
class Left:
    """A synapse that was called split or merged and stays as it is.

    Attributes
    ----------
    synapse_id : int
    verdict : str
        ``split`` or ``merged``.
    z, y, x : float
        Middle between both sides, nm.
    reason : str
        Why it stays.
    """

    synapse_id: int
    verdict: str
    z: float
    y: float
    x: float
    reason: str


@dataclass(frozen=True)
class Pieces:
    """What is joined and what is taken apart.

    Attributes
    ----------
    joined : tuple of (int, int)
        Numbers of parts, and the number that the whole has: the smallest of its parts.
    apart : tuple of Apart
    left : tuple of Left
    """

    joined: tuple[tuple[int, int], ...] = ()
    apart: tuple[Apart, ...] = ()
    left: tuple[Left, ...] = ()


def plan_pieces(
    found: Found,
    known: Known,
    table: Path,
    volumes: Volumes | None,
    how: Separation,
    gone: tuple[int, ...],
    turned: tuple[int, ...],
) -> Pieces:
    """Decide what is joined and what is taken apart.

    Parameters
    ----------
    found : Found
    known : Known
        Verdicts; a majority of the reviewers of a synapse has to call it split or merged.
    table : Path
        Synapse table.
    volumes : Volumes or None
        None where there is no polarity of these instances.
    how : Separation
    gone, turned : tuple of int
        Synapses that are left out, and those whose sides are exchanged.
    """
    said: defaultdict[int, list[str]] = defaultdict(list)
    for opinion in known.found:
        if opinion.verdict != "unsure":
            said[opinion.row].append(opinion.verdict)
    middle, left = found.middle, []

    def leave(row: int, verdict: str, reason: str) -> None:
        z, y, x = middle[row].tolist()
        left.append(Left(int(found.number[row]), verdict, z, y, x, reason))

    wanted: dict[str, dict[int, int]] = {"split": {}, "merged": {}}
    for row in sorted(said):
        number = int(found.number[row])
        for verdict, rows in wanted.items():
            count = said[row].count(verdict)
            if 2 * count > len(said[row]):
                rows[number] = row
            elif count and number not in gone:
                leave(row, verdict, "reviewers disagree about it: agree on one verdict")
    for one, tie in known.loose:
        if one.verdict in wanted:
            reason = f"it is not the same in this decoding ({tie}): judge it again"
            z, y, x = ((a + b) / 2 for a, b in zip(one.pre, one.post, strict=True))
            left.append(Left(0, one.verdict, z, y, x, reason))
    if volumes is None:
        for verdict, rows in wanted.items():
            for row in rows.values():
                leave(row, verdict, "predict.output has no polarity of these voxels (uint8)")
        return Pieces(left=tuple(left))
    boxes = volumes.boxes(table, [*wanted["split"], *wanted["merged"]])
    for verdict, rows in wanted.items():
        for number in [n for n in rows if voxels_of(boxes[n]) > MOST_VOXELS]:
            leave(rows.pop(number), verdict, f"its box has more than {MOST_VOXELS:,} voxels")
    near = {n: _neighbours(volumes, boxes[n], n, how) for n in wanted["split"]}
    joined = []
    for number, row in wanted["split"].items():
        partner, reason = other_part(number, near, found, gone, turned, tuple(wanted["merged"]))
        if partner is None:
            leave(row, "split", reason)
        else:
            joined.append((number, partner))
    parts_of_one = {part for pair in joined for part in pair}
    left = [one for one in left if one.synapse_id not in parts_of_one]
    groups = sorted(map(sorted, nx.connected_components(nx.Graph(joined))))
    boxes |= volumes.boxes(table, [number for group in groups for number in group])
    for group in [g for g in groups if voxels_of(box_around(boxes[n] for n in g)) > MOST_VOXELS]:
        groups.remove(group)
        for number in [n for n in group if n in wanted["split"]]:
            reason = f"the box around it and its other part has more than {MOST_VOXELS:,} voxels"
            leave(wanted["split"][number], "split", reason)
    apart, first = [], int(found.number.max(initial=0)) + 1
    for number, row in sorted(wanted["merged"].items()):
        box = boxes[number]
        pieces = how.separate(volumes.labels(box), volumes.channels(box), number)
        if pieces is None:
            leave(
                row,
                "merged",
                f"no threshold takes it apart into pieces with {how.least} voxels on each side",
            )
        else:
            more = int(pieces.max()) - 1
            apart.append(Apart(number, first, more, box))
            first += more
    return Pieces(
        tuple(sorted((number, group[0]) for group in groups for number in group)),
        tuple(apart),
        tuple(sorted(left, key=lambda one: (one.synapse_id, one.verdict))),
    )


def _neighbours(volumes: Volumes, box: Box, number: int, how: Separation) -> dict[int, float]:
    """Return the synapses within `REACH` of one, each with its distance (nm), nearest first."""
    labels = volumes.labels(volumes.around(box, REACH))
    synapse = split_labels(labels)[0] if how.sides else labels
    distance = distance_transform_edt(synapse != number, sampling=how.size)
    near = (synapse != 0) & (synapse != number) & (distance <= REACH)
    numbers, into = np.unique(synapse[near], return_inverse=True)
    least = np.full(len(numbers), np.inf)
    np.minimum.at(least, into, distance[near])
    order = np.lexsort([numbers, least])
    return dict(zip(numbers[order].tolist(), least[order].tolist(), strict=True))


def other_part(
    number: int,
    near: dict[int, dict[int, float]],
    found: Found,
    gone: tuple[int, ...],
    turned: tuple[int, ...],
    merged: tuple[int, ...],
) -> tuple[int | None, str]:
    """Return the other part of a synapse, or the reason why nobody knows it."""

    def agreeing(one: int) -> list[int]:
        return [
            other for other in near[one] if other not in gone and _agree(found, one, other, turned)
        ]

    candidates = agreeing(number)
    if not candidates:
        return None, f"no synapse with the same direction lies within {REACH:g} nm"
    partner = candidates[0]
    mutual = partner in near and agreeing(partner)[:1] == [number]
    if len(candidates) > 1 and not mutual:
        names = ", ".join(map(str, candidates[:5]))
        return None, f"several synapses are near ({names}): call its other part split too"
    for others, verdict in ((turned, "flipped"), (merged, "merged")):
        if partner in others:
            return None, f"its neighbour {partner} is called {verdict}"
    return partner, ""


def _agree(found: Found, one: int, other: int, turned: tuple[int, ...]) -> bool:
    """Return whether two synapses point the same way, or one of them has a single side."""
    rows = np.searchsorted(found.number, np.array([one, other], found.number.dtype))
    first, second = (found.post[rows] - found.pre[rows]) * [
        [-1 if n in turned else 1] for n in (one, other)
    ]
    return bool(first @ second > 0 or not first.any() or not second.any())


def rows_of_pieces(
    pieces: Pieces, volumes: Volumes | None, table: Path, how: Separation
) -> pa.Table:
    """Return the rows of the table that are new: of synapses that were joined or taken apart.

    The values are those of the voxels, as in any synapse table; ascending.
    """
    if volumes is None or not (pieces.joined or pieces.apart):
        return schema_of(how.sides).empty_table()
    groups = defaultdict(list)
    for number, whole in pieces.joined:
        groups[whole].append(number)
    boxes = volumes.boxes(table, [number for number, _ in pieces.joined])
    made: list[tuple[int, Rows]] = []
    for whole, numbers in groups.items():
        box = box_around(boxes[n] for n in numbers)
        labels = joined_labels(volumes.labels(box), pieces, how.sides)
        made.append((whole, sums_of(labels, volumes.channels(box), box, whole, how.sides)))
    for one in pieces.apart:
        _, labels = taken_apart(volumes, one, how)
        polarity = volumes.channels(one.box)
        for number in (one.number, *range(one.first, one.first + one.more)):
            made.append((number, sums_of(labels, polarity, one.box, number, how.sides)))
    made.sort(key=lambda pair: pair[0])
    return synapse_rows(
        np.array([number for number, _ in made], np.uint64),
        Rows.joined([rows for _, rows in made]),
        volumes.instances,
        FULL,
        exclusive=how.exclusive,
        sides=how.sides,
    )


def joined_labels(labels: np.ndarray, pieces: Pieces, sides: bool) -> np.ndarray:
    """Return labels in which the parts of a synapse have one number."""
    old = np.array([number for number, _ in pieces.joined], labels.dtype)
    new = np.array([whole for _, whole in pieces.joined], labels.dtype)
    synapse, pre = split_labels(labels) if sides else (labels, None)
    chosen = np.isin(synapse, old)
    if not chosen.any():
        return labels
    made = labels.copy()
    whole = new[np.searchsorted(old, synapse[chosen])]
    made[chosen] = whole if pre is None else side_labels(whole, pre[chosen], ~pre[chosen])
    return made
