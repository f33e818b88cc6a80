"""Single synapses that are worth a look: the surest, the least sure, the wrong and the missed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from synpol.blockwise.grid import BlockGrid
from synpol.blockwise.stage import blocks_of
from synpol.images.image import Image, shifted
from synpol.polarity import synapse_of
from synpol.report import figures
from synpol.synapses.table import confidence

MISSED = "Missed, largest first"
#: synapses of a kind
COUNT = 6
#: side of a picture in the world, nm, and of its section in pixels of the page, about
EXTENT, PIXELS = 1200.0, 180


@dataclass(frozen=True)
class Synapse:
    """One synapse that is shown.

    Attributes
    ----------
    title : str
    place : (float, float, float)
        z, y, x; nm.
    """

    title: str
    place: tuple[float, float, float]


def choose(
    table: pa.Table, correct: Mapping[int, bool], missed: Mapping[int, Sequence[float]]
) -> dict[str, list[Synapse]]:
    """What is shown, by kind.

    Parameters
    ----------
    table : pyarrow.Table
        The synapse table.
    correct : mapping of int to bool
        Predicted synapses that were scored, and whether they were right.
    missed : mapping of int to (z, y, x)
        True synapses that were not found and where they are, nm; the largest first.
    """
    score = confidence(table)
    known = np.flatnonzero(~np.isnan(score))
    number = table["synapse_id"].to_numpy()
    places = np.stack([table[a].to_numpy() for a in "zyx"], axis=1).reshape(-1, 3)
    order = known[np.argsort(-score[known], kind="stable")]
    is_wrong = np.array([correct.get(int(n)) is False for n in number[order]], bool)

    def shown(rows: np.ndarray) -> list[Synapse]:
        return [
            Synapse(f"{number[r]}, score {score[r]:.2f}", tuple(places[r].tolist())) for r in rows
        ]

    found = {
        "Most confident": shown(order[:COUNT]),
        "Least confident": shown(order[::-1][:COUNT]),
        "Wrong, most confident first": shown(order[is_wrong][:COUNT]),
        MISSED: [
            Synapse(f"true synapse {n}", (place[0], place[1], place[2]))
            for n, place in list(missed.items())[:COUNT]
        ],
    }
    return {kind: synapses for kind, synapses in found.items() if synapses}


def places_of(
    labels: Image,
    wanted: Mapping[int, int],
    begin: Sequence[int],
    shape: Sequence[int],
    sides: bool,
) -> dict[int, tuple[float, float, float]]:
    """Centroids (nm) of synapses of a label volume of any size.

    Reads block by block, until all are found. A synapse that has another number of voxels there is
    left out: a mask, for one, does not carry the numbers that its parts were scored by.

    Parameters
    ----------
    labels : Image
    wanted : mapping of int to int
        Numbers of synapses and their voxels.
    begin, shape : 3 ints
        The part that is looked at, voxels.
    sides : bool
        Whether labels are 2n-1 and 2n instead of n.
    """
    numbers = np.array(sorted(wanted), np.uint64)
    left = {int(n): wanted[int(n)] for n in numbers}
    sums = {int(n): np.zeros(3) for n in numbers}
    chunk = [max(c, 128) for c in labels.array.chunks]
    blocks = BlockGrid.of(shape, chunk)
    for index in blocks_of(blocks.grid):
        if not any(n > 0 for n in left.values()):
            break
        where = blocks.slices(index)
        found = np.asarray(labels.array[shifted(where, begin)]).astype(np.uint64)
        found = synapse_of(found) if sides else found
        at = np.argwhere(np.isin(found, numbers))
        for number in np.unique(found[tuple(at.T)]).tolist():
            mine = at[found[tuple(at.T)] == number] + [w.start for w in where]
            sums[number] += mine.sum(axis=0)
            left[number] -= len(mine)
    size, origin = np.array(labels.voxel_size_nm), np.array(labels.offset_nm)
    places = {}
    for number, voxels in wanted.items():
        if left[number]:
            continue
        z, y, x = origin + (sums[number] / voxels + begin + 0.5) * size
        places[number] = (float(z), float(y), float(x))
    return places


def picture(
    grid: Image,
    place: Sequence[float],
    raw: tuple[Image, Sequence[int]],
    labels: Sequence[tuple[Image, Sequence[int]]],
    sides: bool,
) -> str:
    """The section through a place: the image, and each of the label volumes on it, side by side.

    Parameters
    ----------
    grid : Image
        What is shown lies in it.
    place : 3 floats
        z, y, x; nm.
    raw : (Image, 3 ints)
        The image, and where the grid begins in it, voxels.
    labels : sequence of (Image, 3 ints)
    sides : bool
        Whether labels are 2n-1 and 2n instead of n.

    Returns
    -------
    str
        For the ``src`` of an HTML image.
    """
    where = []
    for axis, size in enumerate(grid.voxel_size_nm):
        half = round(EXTENT / size / 2) if axis else 0
        middle = int((place[axis] - grid.offset_nm[axis]) // size)
        length = grid.shape_vx[axis]
        middle = min(max(middle, 0), length - 1)
        where.append(slice(max(0, middle - half), min(length, middle + half + 1)))

    def section(source: tuple[Image, Sequence[int]]) -> np.ndarray:
        image, begin = source
        return np.asarray(image.array[shifted(where, begin)])[0]

    below = section(raw)
    tiles = [figures.grey(below)]
    tiles += [figures.with_instances(below, section(s).astype(np.uint64), sides) for s in labels]
    factor = max(1, round(PIXELS / max(below.shape)))
    gap = np.ones((below.shape[0] * factor, 4, 3))
    row: list[np.ndarray] = []
    for tile in tiles:
        row += [tile.repeat(factor, axis=0).repeat(factor, axis=1), gap]
    return figures.png_uri(np.concatenate(row[:-1], axis=1))
