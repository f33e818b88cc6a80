"""Distribute lines over a spatial index: levels of smaller and smaller cells.

A viewer that shows a part of the volume loads the cells in this part, level by level, until it has
enough lines for the zoom. Each line lies on one level. As the format's specification recommends,
the lines are taken in random order, as many for each level as its fullest cell may hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from synpol.images.sharding import morton

#: most levels; the last level takes all lines that are left
MOST_LEVELS = 24
#: most cells that a line crosses on average; no level has smaller cells
MOST_CELLS = 8


@dataclass(frozen=True)
class SpatialLevel:
    """One level of the spatial index.

    Attributes
    ----------
    grid : (3,) int64
        Number of cells along x, y, z.
    size : (3,) float64
        Size of a cell along x, y, z; nm.
    cell, line : (k,) uint64 and int64
        Compressed Morton code of a cell, and row of a line that crosses this cell. The pairs are
        sorted by cell; the lines of a cell are in random order.
    """

    grid: np.ndarray
    size: np.ndarray
    cell: np.ndarray
    line: np.ndarray


def spatial_levels(
    lines: np.ndarray, low: np.ndarray, high: np.ndarray, limit: int
) -> Iterator[SpatialLevel]:
    """Distribute lines over levels of smaller and smaller cells, each line on one level.

    Parameters
    ----------
    lines : (n, 6) array
        Both ends of each line: x, y, z, x, y, z; nm.
    low, high : (3,) arrays
        Lower and upper corner of the volume, x, y, z; nm.
    limit : int
        Most lines of a cell; the last level may have more.

    Yields
    ------
    SpatialLevel
        Levels from the largest to the smallest cells.
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
        in_cell = np.arange(len(cell)) - np.repeat(begins, np.diff(begins, append=len(cell)))
        end = int(rank[line[in_cell >= limit]].min(initial=count))  # first rank for later levels
        finer = np.where(size > size.max() / 2**0.5, 2 * grid, grid)
        extent = (last[left] - first[left]) / ((high - low) / finer) + 1
        if number + 1 == MOST_LEVELS or extent.prod(axis=1).sum() > MOST_CELLS * len(left):
            end = count
        here = rank[line] < end
        yield SpatialLevel(grid, size, cell[here], line[here])
        left, grid = left[rank[left] >= end], finer
        if not len(left):
            return


def _cells_of(
    first: np.ndarray, last: np.ndarray, low: np.ndarray, size: np.ndarray, grid: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the code of each cell that the bounding box of a line overlaps, and the line's row."""
    begin, end = (
        np.clip(np.floor((p - low) / size), 0, grid - 1).astype(np.int64) for p in (first, last)
    )
    extent = end - begin + 1
    cells = extent.prod(axis=1)
    line = np.repeat(np.arange(len(begin)), cells)
    step = np.arange(len(line)) - np.repeat(np.cumsum(cells) - cells, cells)
    offset = np.empty((len(line), 3), np.int64)
    for axis in range(3):
        step, offset[:, axis] = np.divmod(step, extent[line, axis])
    return morton(begin[line] + offset, grid), line
