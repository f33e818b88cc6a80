"""Find the components of runs, and dilate them: voxels of a block that lie side by side in a row.

Nearly all voxels of a prediction are background. Work on runs grows with what is there, and work on
a mask grows with the block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from synpol.blockwise.records import Index
from synpol.decoding.dilation import Box, halo
from synpol.images.sparse import ranges
from synpol.synapses.statistics import Columns


@dataclass
class RowRuns(Columns):
    """Runs of voxels along x, none longer than its row, in C order where nothing else is said.

    Attributes
    ----------
    z, y, x : (n,) int64
        First voxel of each run.
    end : (n,) int64
        Behind the last voxel of each run, along x.
    """

    z: np.ndarray
    y: np.ndarray
    x: np.ndarray
    end: np.ndarray

    @classmethod
    def cut(cls, start: np.ndarray, length: np.ndarray, shape: Index) -> tuple[RowRuns, np.ndarray]:
        """Cut runs at the ends of rows.

        Parameters
        ----------
        start, length : (n,) int64
            First voxel of each run, as an index in the C order of the block; and its voxels.
        shape : (int, int, int)
            Shape of the block.

        Returns
        -------
        RowRuns
        of : (m,) int64
            Number of the run of which each is a part.
        """
        width = shape[2]
        first = start // width
        rows = (start + length - 1) // width - first + 1
        of = np.repeat(np.arange(len(start)), rows)
        row = ranges(first, rows)
        low = row * width
        begin, end = np.maximum(start[of], low), np.minimum((start + length)[of], low + width)
        return cls(row // shape[1], row % shape[1], begin - low, end - low), of

    @classmethod
    def of_voxels(cls, place: np.ndarray) -> RowRuns:
        """Return a run for each voxel; `place` is its z, y and x, a (3, n) array."""
        z, y, x = place
        return cls(z, y, x, x + 1)

    @property
    def length(self) -> np.ndarray:
        """Number of voxels of each run, (n,) int64."""
        return self.end - self.x

    def first(self, shape: Index) -> np.ndarray:
        """Return the first voxel of each run, as an index in the C order of a block."""
        return (self.z * shape[1] + self.y) * shape[2] + self.x

    def keys(self, shape: Index) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
        """Number the voxels such that no two rows or sections follow on each other.

        Returns
        -------
        start, end : (n,) int64
            Number of the first voxel of each run, and the one behind its last.
        steps : (int, int)
            How much larger the number of the next voxel along z and along y is.
        """
        _, height, width = shape
        row = (self.z * (height + 1) + self.y) * (width + 1)
        return row + self.x, row + self.end, ((height + 1) * (width + 1), width + 1)

    def at(self, voxels: np.ndarray, shape: Index) -> np.ndarray:
        """Find the run of each voxel (an index in the C order of the block); each has one."""
        return np.searchsorted(self.first(shape), voxels, "right") - 1

    def merged(self, shape: Index) -> RowRuns:
        """Merge runs, in any order, where they overlap or touch."""
        start, end, _ = self.keys(shape)
        order = np.argsort(start, kind="stable")
        start, reach = start[order], np.maximum.accumulate(end[order])
        begins = np.flatnonzero(np.append(True, start[1:] > reach[:-1])[: len(start)])
        last = np.append(begins[1:], len(start))[: len(begins)] - 1
        first = order[begins]
        x = self.x[first]
        return RowRuns(self.z[first], self.y[first], x, x + reach[last] - start[begins])

    def dilated(self, box: Box, shape: Index) -> RowRuns:
        """Dilate runs, in any order, within a block; as `synpol.decoding.dilation.dilate`."""
        below, above = halo(box)
        x, end = np.maximum(self.x - above[2], 0), np.minimum(self.end + below[2], shape[2])
        runs = RowRuns(self.z, self.y, x, end).merged(shape)
        for axis, name in ((1, "y"), (0, "z")):
            reach = np.arange(-above[axis], below[axis] + 1)
            if len(reach) > 1:
                shifted = (getattr(runs, name) + reach[:, None]).ravel()
                inside = (shifted >= 0) & (shifted < shape[axis])
                runs = runs[np.tile(np.arange(len(runs.x)), len(reach))[inside]]
                setattr(runs, name, shifted[inside])
                runs = runs.merged(shape)
        return runs

    def cropped(self, low: Index, shape: Index) -> RowRuns:
        """Return what lies in a box of a shape that begins at a voxel, relative to that voxel."""
        z, y = self.z - low[0], self.y - low[1]
        x, end = np.maximum(self.x - low[2], 0), np.minimum(self.end - low[2], shape[2])
        inside = (z >= 0) & (z < shape[0]) & (y >= 0) & (y < shape[1]) & (x < end)
        return RowRuns(z, y, x, end)[np.flatnonzero(inside)]

    def moved(self, by: Index) -> RowRuns:
        """Move all runs."""
        return RowRuns(self.z + by[0], self.y + by[1], self.x + by[2], self.end + by[2])

    def on_face(
        self, axis: int, high: bool, shape: Index
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find the voxels on a face of the block.

        Returns
        -------
        run : (n,) int64
            Number of the run of each voxel.
        place : (n,) int64
            Index of the voxel in the C order of the face.
        voxel : (n,) int64
            Index of the voxel in the C order of the block.
        """
        last = shape[axis] - 1
        if axis == 2:
            run = np.flatnonzero(self.end == shape[2] if high else self.x == 0)
            place = self.z[run] * shape[1] + self.y[run]
            return run, place, self.first(shape)[run] + (self.length[run] - 1 if high else 0)
        across, along = (self.z, self.y) if axis == 0 else (self.y, self.z)
        which = np.flatnonzero(across == (last if high else 0))
        length = self.length[which]
        place = ranges(along[which] * shape[2] + self.x[which], length)
        return np.repeat(which, length), place, ranges(self.first(shape)[which], length)

    def contacts(self, shape: Index) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Find the runs that lie side by side along z, along y, and along x, in this order.

        Yields
        ------
        one, other : (n,) int64
            Numbers of the two runs; the voxels of the second have the larger index.
        faces : (n,) int64
            Number of voxel faces between them.
        """
        start, end, steps = self.keys(shape)
        for step in steps:
            low, high = start + step, end + step
            first = np.searchsorted(end, low, "right")
            count = np.maximum(np.searchsorted(start, high) - first, 0)
            one, other = np.repeat(np.arange(len(start)), count), ranges(first, count)
            yield one, other, np.minimum(high[one], end[other]) - np.maximum(low[one], start[other])
        one = np.flatnonzero(end[:-1] == start[1:])
        yield one, one + 1, np.ones(len(one), np.int64)


def component_labels(count: int, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Label the components of a graph: 1, 2, ... in the order of their first nodes.

    Parameters
    ----------
    count : int
        Number of nodes.
    one, other : (n,) int64
        The two ends of each edge.
    """
    root = np.arange(count)  # the smallest node that is known to be in the same component
    while len(one):
        low, high = np.minimum(one, other), np.maximum(one, other)
        np.minimum.at(root, high, low)
        above = root[root]
        while not np.array_equal(above, root):
            root, above = above, above[above]
        one, other = root[low], root[high]
        apart = np.flatnonzero(one != other)
        one, other = one[apart], other[apart]
    is_first = root == np.arange(count)
    return np.cumsum(is_first)[root]


def first_of_each(labels: np.ndarray) -> np.ndarray:
    """Find where each label occurs first; labels are numbered in that order."""
    return np.flatnonzero(np.diff(np.maximum.accumulate(labels), prepend=0))
