"""Coarser levels of an image: how many, and what their voxels are made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: an image that has no side longer than this needs no coarser level, voxels
SMALL = 128


def level_factors(shape: Sequence[int], voxel_size: Sequence[float]) -> list[tuple[int, int, int]]:
    """How the voxels of each coarser level follow from those of the level before.

    Every level halves the axes whose voxels are the short ones, so that voxels become cubes and
    stay so, until no side has more than `SMALL` voxels.

    Parameters
    ----------
    shape : 3 ints
        Of the full resolution, voxels.
    voxel_size : 3 numbers

    Returns
    -------
    list of 3 ints
        Voxels of the level before along z, y, x; 1 or 2.

    Examples
    --------
    >>> level_factors((40, 512, 512), (30, 8, 8))
    [(1, 2, 2), (1, 2, 2)]
    """
    sides, sizes = list(shape), [float(v) for v in voxel_size]
    found = []
    while max(sides) > SMALL:
        short = min(v for v, n in zip(sizes, sides, strict=True) if n > 1)
        z, y, x = (
            2 if n > 1 and v < short * 2**0.5 else 1 for v, n in zip(sizes, sides, strict=True)
        )
        found.append((z, y, x))
        sizes = [v * f for v, f in zip(sizes, found[-1], strict=True)]
        sides = [-(-n // f) for n, f in zip(sides, found[-1], strict=True)]
    return found


def _cells(array: np.ndarray, factors: Sequence[int]) -> np.ndarray:
    """The voxels of each cell along a first axis; cells cut by the end repeat their last voxel."""
    lead = array.ndim - 3
    missing = [-n % f for n, f in zip(array.shape[lead:], factors, strict=True)]
    if any(missing):
        array = np.pad(array, [(0, 0)] * lead + [(0, m) for m in missing], mode="edge")
    voxels = [
        array[..., z :: factors[0], y :: factors[1], x :: factors[2]]
        for z, y, x in np.ndindex(*factors)
    ]
    return np.stack(voxels)


def mean_of_cells(array: np.ndarray, factors: Sequence[int]) -> np.ndarray:
    """A coarser image: each voxel is the mean of the voxels that it covers.

    Parameters
    ----------
    array : (..., z, y, x) array
    factors : 3 ints
        1 or 2, along z, y, x. Voxels beyond the end do not count.

    Returns
    -------
    (..., z, y, x) array
        Of the same dtype; whole numbers are rounded, halves to even.
    """
    cells = _cells(array, factors)
    if array.dtype.kind == "f":
        return cells.mean(axis=0, dtype=np.float64).astype(array.dtype)
    return np.rint(cells.mean(axis=0, dtype=np.float64)).astype(array.dtype)


def label_of_cells(array: np.ndarray, factors: Sequence[int]) -> np.ndarray:
    """Coarser labels: each voxel has a label of the voxels that it covers, never another.

    It is the most frequent label that is not 0, of equals the smallest: what is small does not
    vanish in the background but grows a little.

    Parameters
    ----------
    array : (z, y, x) array of integers
    factors : 3 ints
        1 or 2, along z, y, x. Voxels beyond the end do not count.

    Returns
    -------
    (z, y, x) array
    """
    cells = _cells(array, factors)
    shape = cells.shape[1:]
    cells = cells.reshape(len(cells), -1)
    there = np.flatnonzero(cells.any(axis=0))
    found = np.zeros(cells.shape[1], array.dtype)
    ordered = np.sort(cells[:, there], axis=0)
    votes = np.stack([(ordered == voxel).sum(axis=0) for voxel in ordered])
    votes[ordered == 0] = 0
    found[there] = np.take_along_axis(ordered, votes.argmax(axis=0)[None], axis=0)[0]
    return found.reshape(shape)
