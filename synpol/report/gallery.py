"""Choose and draw single synapses: those with the best and the worst scores, errors and misses."""

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
#: most synapses of one kind
COUNT = 6
#: length of a picture's side in the volume, nm
EXTENT = 1200.0
#: approximate length of a picture's side on the page, pixels
PIXELS = 180


@dataclass(frozen=True)
class Synapse:
    """A synapse to draw.

    Attributes
    ----------
    title : str
        Text below the picture.
    position : (float, float, float)
        World coordinates of the centroid, z, y, x; nm.
    """

    title: str
    position: tuple[float, float, float]


def choose(
    table: pa.Table, correct: Mapping[int, bool], missed: Mapping[int, Sequence[float]]
) -> dict[str, list[Synapse]]:
    """Choose the synapses to draw.

    Parameters
    ----------
    table : pyarrow.Table
        Synapse table.
    correct : mapping of int to bool
        Whether each predicted synapse is right, by its number; synapses that were not scored are
        absent.
    missed : mapping of int to (z, y, x)
        Centroids (nm) of the true synapses that were not found, by their numbers; the largest
        synapses come first.

    Returns
    -------
    dict of str to list of Synapse
        At most `COUNT` synapses of each kind; kinds without synapses are absent.
    """
    score = confidence(table)
    known = np.flatnonzero(~np.isnan(score))
    number = table["synapse_id"].to_numpy()
    positions = np.stack([table[a].to_numpy() for a in "zyx"], axis=1).reshape(-1, 3)
    order = known[np.argsort(-score[known], kind="stable")]
    is_wrong = np.array([correct.get(int(n)) is False for n in number[order]], bool)

    def synapses_of(rows: np.ndarray) -> list[Synapse]:
        return [
            Synapse(f"{number[r]}, score {score[r]:.2f}", tuple(positions[r].tolist()))
            for r in rows
        ]

    kinds = {
        "Most confident": synapses_of(order[:COUNT]),
        "Least confident": synapses_of(order[::-1][:COUNT]),
        "Wrong, most confident first": synapses_of(order[is_wrong][:COUNT]),
        MISSED: [
            Synapse(f"true synapse {n}", (z, y, x)) for n, (z, y, x) in list(missed.items())[:COUNT]
        ],
    }
    return {kind: synapses for kind, synapses in kinds.items() if synapses}


def centroids(
    labels: Image,
    sizes: Mapping[int, int],
    begin: Sequence[int],
    shape: Sequence[int],
    sides: bool,
) -> dict[int, tuple[float, float, float]]:
    """Return the centroids of some synapses of a label volume of any size.

    The volume is read block by block until all voxels of the synapses are found.

    Parameters
    ----------
    labels : Image
        Label volume.
    sizes : mapping of int to int
        Number of voxels of each synapse, by the number of the synapse.
    begin, shape : 3 ints
        First voxel and shape of the part of the volume to read, voxels.
    sides : bool
        Whether labels are 2n-1 and 2n instead of n.

    Returns
    -------
    dict of int to (float, float, float)
        Centroids in world coordinates, z, y, x; nm. A synapse that has another number of voxels in
        this volume is absent: a mask, for example, does not hold the numbers of the scored
        synapses.
    """
    numbers = np.array(sorted(sizes), np.uint64)
    left = {int(n): sizes[int(n)] for n in numbers}
    sums = {int(n): np.zeros(3) for n in numbers}
    chunk = [max(c, 128) for c in labels.array.chunks]
    blocks = BlockGrid.of(shape, chunk)
    for index in blocks_of(blocks.grid):
        if not any(n > 0 for n in left.values()):
            break
        slices = blocks.slices(index)
        synapse = np.asarray(labels.array[shifted(slices, begin)]).astype(np.uint64)
        synapse = synapse_of(synapse) if sides else synapse
        voxels = np.argwhere(np.isin(synapse, numbers))
        of_voxel = synapse[tuple(voxels.T)]
        for number in np.unique(of_voxel).tolist():
            own = voxels[of_voxel == number] + [s.start for s in slices]
            sums[number] += own.sum(axis=0)
            left[number] -= len(own)
    size, origin = np.array(labels.voxel_size_nm), np.array(labels.offset_nm)
    positions = {}
    for number, count in sizes.items():
        if left[number]:
            continue
        z, y, x = origin + (sums[number] / count + begin + 0.5) * size
        positions[number] = (float(z), float(y), float(x))
    return positions


def picture(
    instances: Image,
    position: Sequence[float],
    raw: tuple[Image, Sequence[int]],
    labels: Sequence[tuple[Image, Sequence[int]]],
    sides: bool,
) -> str:
    """Draw a section through a synapse: the image, then each label volume over the image.

    Parameters
    ----------
    instances : Image
        Volume that bounds the section.
    position : 3 floats
        World coordinates of the middle of the picture, z, y, x; nm.
    raw : (Image, 3 ints)
        Image, and the position of the first voxel of the instances in it, voxels.
    labels : sequence of (Image, 3 ints)
        Label volumes, each with the position of the first voxel of the instances in it, voxels.
    sides : bool
        Whether labels are 2n-1 and 2n instead of n.

    Returns
    -------
    str
        Text for the ``src`` of an HTML image.
    """
    slices = []
    for axis, size in enumerate(instances.voxel_size_nm):
        half = round(EXTENT / size / 2) if axis else 0
        middle = int((position[axis] - instances.offset_nm[axis]) // size)
        length = instances.shape_vx[axis]
        middle = min(max(middle, 0), length - 1)
        slices.append(slice(max(0, middle - half), min(length, middle + half + 1)))

    def section(source: tuple[Image, Sequence[int]]) -> np.ndarray:
        image, begin = source
        return np.asarray(image.array[shifted(slices, begin)])[0]

    below = section(raw)
    tiles = [figures.grey(below)]
    tiles += [figures.with_instances(below, section(s).astype(np.uint64), sides) for s in labels]
    factor = max(1, round(PIXELS / max(below.shape)))
    gap = np.ones((below.shape[0] * factor, 4, 3))
    row: list[np.ndarray] = []
    for tile in tiles:
        row += [tile.repeat(factor, axis=0).repeat(factor, axis=1), gap]
    return figures.png_uri(np.concatenate(row[:-1], axis=1))
