"""Hold blocks of which most voxels are zero, and divide them into chunks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_Index = tuple[int, int, int]


@dataclass(frozen=True)
class SparseBlock:
    """Voxels of a block that are not zero, as runs along x in any order.

    Attributes
    ----------
    shape : (int, int, int)
        Shape of the block.
    z, y, x : (n,) int64
        First voxel of each run.
    end : (n,) int64
        Behind the last voxel of each run, along x.
    value : (n,) array
        Value of the voxels of each run, of the type of the block; not zero.
    """

    shape: _Index
    z: np.ndarray
    y: np.ndarray
    x: np.ndarray
    end: np.ndarray
    value: np.ndarray

    def dense(self) -> np.ndarray:
        """Return the block as an array."""
        block = np.zeros(self.shape, self.value.dtype)
        length = self.end - self.x
        first = (self.z * self.shape[1] + self.y) * self.shape[2] + self.x
        block.ravel()[ranges(first, length)] = np.repeat(self.value, length)
        return block

    def chunks(self, chunk: _Index) -> Iterator[tuple[_Index, np.ndarray]]:
        """Divide the block into chunks, and return those with voxels that are not zero.

        Parameters
        ----------
        chunk : (int, int, int)
            Shape of a chunk.

        Yields
        ------
        index : (int, int, int)
            Index of the chunk in the block.
        values : array of shape `chunk`
            Its voxels, zero beyond the block. The next chunk takes the same memory.
        """
        deep, high, wide = chunk
        rows, columns = -(-self.shape[1] // high), -(-self.shape[2] // wide)
        first = self.x // wide
        parts = (self.end - 1) // wide - first + 1
        run = np.repeat(np.arange(len(first)), parts)
        column = ranges(first, parts)
        begin = np.maximum(self.x[run] - column * wide, 0)
        length = np.minimum(self.end[run] - column * wide, wide) - begin
        z, y = self.z[run], self.y[run]
        start = (z % deep * high + y % high) * wide + begin
        number = (z // deep * rows + y // high) * columns + column
        order = np.argsort(number, kind="stable")
        numbers, ends = np.unique(number[order], return_index=True)
        values = np.zeros(chunk, self.value.dtype)
        for at, mine in zip(numbers.tolist(), np.split(order, ends[1:]), strict=True):
            voxels = ranges(start[mine], length[mine])
            values.ravel()[voxels] = np.repeat(self.value[run[mine]], length[mine])
            yield (at // columns // rows, at // columns % rows, at % columns), values
            values.ravel()[voxels] = 0


def ranges(first: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Return the numbers ``first[i]``, ``first[i] + 1``, ..., `count[i]` of them, for each i."""
    before = np.cumsum(count) - count
    return np.repeat(first - before, count) + np.arange(int(count.sum()))
