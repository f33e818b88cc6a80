"""Group and find rows of tables by several columns of whole numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def grouped(columns: Sequence[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """Find the different rows of some columns.

    Parameters
    ----------
    columns : sequence of (n,) arrays
        Columns; the first counts first.

    Returns
    -------
    list of (m,) arrays
        Different rows, sorted.
    (n,) int64
        For each row which of them it is.
    """
    order = np.lexsort(columns[::-1])
    ordered = [column[order] for column in columns]
    new = begins(*ordered)
    into = np.empty(len(order), np.int64)
    into[order] = np.cumsum(new) - 1
    return [column[new] for column in ordered], into


def begins(*columns: np.ndarray) -> np.ndarray:
    """Mark the first of equal rows that follow each other; (n,) bool."""
    new = np.ones(len(columns[0]), bool)
    new[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    return new


def totals(values: np.ndarray, into: np.ndarray, count: int) -> np.ndarray:
    """Add up whole numbers of the rows that belong together, exactly."""
    result = np.zeros((count, *values.shape[1:]), np.int64)
    np.add.at(result, into, values.astype(np.int64, copy=False))
    return result


def first_of_each(group: np.ndarray, *keys: np.ndarray) -> np.ndarray:
    """Find the row of each group with the smallest keys; the first key counts first."""
    order = np.lexsort((*keys[::-1], group))
    return np.asarray(order[begins(group[order])])


def find_rows(
    first: np.ndarray, second: np.ndarray, wanted: np.ndarray, then: np.ndarray
) -> np.ndarray:
    """Find rows in a table that is sorted by two columns.

    Parameters
    ----------
    first, second : (n,) uint64
        Columns of the table; they may lie in a file.
    wanted, then : (m,) uint64
        Values of both columns to find.

    Returns
    -------
    (m,) int64
        Row of each; -1 where there is none.
    """
    low = np.searchsorted(first, wanted)
    high = end = np.searchsorted(first, wanted, side="right")
    while (low < high).any():
        middle = np.minimum((low + high) // 2, max(0, len(first) - 1))
        less = (low < high) & (second[middle] < then)
        low, high = np.where(less, middle + 1, low), np.where(less, high, np.minimum(high, middle))
    inside = low < end
    there = inside.copy()
    there[inside] = second[low[inside]] == then[inside]
    return np.where(there, low, -1)


class Buckets:
    """Split rows of whole numbers by ranges of a key into files, to be read one by one."""

    def __init__(self, folder: Path, name: str, bounds: np.ndarray, width: int) -> None:
        """Make empty buckets.

        Parameters
        ----------
        folder : Path
            Folder of the files.
        name : str
            Name of the files.
        bounds : (k,) uint64
            Smallest key of each bucket but the first, ascending.
        width : int
            Number of columns.
        """
        self.count, self.width = len(bounds) + 1, width
        self._bounds = bounds
        self._paths = [folder / f"{name}-{number}.rows" for number in range(self.count)]
        for path in self._paths:
            path.write_bytes(b"")

    def add(self, key: np.ndarray, *columns: np.ndarray) -> None:
        """Add rows, (n,) or (n, m) columns of whole numbers from 0 on, by their key."""
        if not len(key):
            return
        rows = np.column_stack([column.astype(np.uint64) for column in columns])
        bucket = np.searchsorted(self._bounds, key, side="right")
        for number in np.unique(bucket):
            with self._paths[number].open("ab") as file:
                file.write(rows[bucket == number].tobytes())

    def read(self, number: int) -> np.ndarray:
        """Return the rows of a bucket, (n, width) uint64, in the order in which they came."""
        return np.fromfile(self._paths[number], np.uint64).reshape(-1, self.width)
