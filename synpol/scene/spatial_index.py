"""Which lines a viewer loads where: levels of ever smaller cells, each line on one of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

#: the deepest level takes all that is left: this one, or where a line met more cells in the mean
MOST_LEVELS, MOST_CELLS = 24, 8


@dataclass(frozen=True)
class SpatialLevel:
    """One level of the index by place.

    Attributes
    ----------
    grid : (3,) int64
        Cells along x, y, z.
    size : (3,) float64
        Of a cell, nm.
    cell, line : (k,) uint64 and int64
        Cells (compressed Morton code) and the lines that are shown there, by cell and within one
        in random order.
    """

    grid: np.ndarray
    size: np.ndarray
    cell: np.ndarray
    line: np.ndarray


def spatial_levels(
    lines: np.ndarray, low: np.ndarray, high: np.ndarray, limit: int
) -> Iterator[SpatialLevel]:
    """Spread lines over levels of ever smaller cells, each line on one level.

    Parameters
    ----------
    lines : (n, 6) array
        Both ends, x, y, z each.
    low, high : (3,) arrays
        Corners of the volume.
    limit : int
        Lines of a cell at most, but on the last level.
    """
    count = len(lines)
    rank = np.random.default_rng(0).permutation(count)
    ends = np.stack([lines[:, :3], lines[:, 3:]]).astype(np.float64)
    first, last = ends.min(axis=0), ends.max(axis=0)
    grid, left = np.ones(3, np.int64), np.arange(count)
    for number in range(MOST_LEVELS):
        size = (high - low) / grid
        cell, row = _cells_of(first[left], last[left], low, size, grid)
        line = left[row]
        order = np.lexsort((rank[line], cell))
        cell, line = cell[order], line[order]
        begins = np.unique(cell, return_index=True)[1]
        place = np.arange(len(cell)) - np.repeat(begins, np.diff(begins, append=len(cell)))
        shown = int(rank[line[place >= limit]].min(initial=count))
        finer = np.where(size > size.max() / 2**0.5, 2 * grid, grid)
        sides = (last[left] - first[left]) / ((high - low) / finer) + 1
        if number + 1 == MOST_LEVELS or sides.prod(axis=1).sum() > MOST_CELLS * len(left):
            shown = count
        here = rank[line] < shown
        yield SpatialLevel(grid, size, cell[here], line[here])
        left, grid = left[rank[left] >= shown], finer
        if not len(left):
            return


def _cells_of(
    first: np.ndarray, last: np.ndarray, low: np.ndarray, size: np.ndarray, grid: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """All cells that the box of each line meets: their codes, and the lines' rows."""
    begin, end = (
        np.clip(np.floor((p - low) / size), 0, grid - 1).astype(np.int64) for p in (first, last)
    )
    sides = end - begin + 1
    each = sides.prod(axis=1)
    line = np.repeat(np.arange(len(begin)), each)
    step = np.arange(len(line)) - np.repeat(np.cumsum(each) - each, each)
    place = np.empty((len(line), 3), np.int64)
    for axis in range(3):
        step, place[:, axis] = np.divmod(step, sides[line, axis])
    return morton(begin[line] + place, grid), line


def morton(place: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Compressed Morton codes: bits of x, y, z in turn, as far as the grid has any.

    Parameters
    ----------
    place : (n, 3) int64
        Indices of cells.
    grid : (3,) int64
        Cells along each axis.

    Returns
    -------
    (n,) uint64
    """
    code, at = np.zeros(len(place), np.uint64), 0
    for bit in range(int(max(grid)).bit_length()):
        for axis in range(3):
            if (int(grid[axis]) - 1) >> bit:
                code |= ((place[:, axis] >> bit) & 1).astype(np.uint64) << np.uint64(at)
                at += 1
    return code
