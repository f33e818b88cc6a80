"""Bring an image to voxels of another size, box by box.

Along each axis a new voxel that is larger than the old ones is the mean of what it covers, and one
that is smaller is interpolated linearly between their centres. A new voxel follows from its number
in the whole image and from old voxels alone, by additions in a fixed order. So a box has the values
that it has in the whole image, to the bit, however the image is cut.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: part of a new voxel that the image has to reach into, for this voxel to be made
_LEAST = 1e-3


@dataclass(frozen=True)
class AxisResampling:
    """New voxels along one axis.

    Attributes
    ----------
    old : int
        Number of voxels that there are.
    new : int
        Number of voxels that are made.
    ratio : float
        Size of a new voxel, in old ones.
    """

    old: int
    new: int
    ratio: float

    @classmethod
    def of(cls, old: int, ratio: float) -> AxisResampling:
        """Cover a whole axis with new voxels; the last may reach beyond it."""
        return cls(old, max(1, math.ceil(old / ratio - _LEAST)), ratio)

    def parts(self, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Say what each new voxel of a range is made of.

        Returns
        -------
        first : (n,) int array
            First old voxel of each.
        weights : (k, n) float32 array
            Weights of this old voxel and of those that follow it. Where a weight is not 0 there is
            such a voxel.
        """
        numbers = np.arange(begin, end + 1)
        if self.ratio == 1:
            return numbers[:-1], np.ones((1, end - begin), np.float32)
        if self.ratio < 1:
            centres = np.clip((numbers[:-1] + 0.5) * self.ratio - 0.5, 0, self.old - 1)
            first = np.floor(centres).astype(np.int64)
            weights = np.stack([first + 1 - centres, centres - first])
        else:
            edges = np.minimum(np.round(numbers * self.ratio, 6), self.old)
            first = np.floor(edges[:-1]).astype(np.int64)
            there = first + np.arange(math.ceil(self.ratio) + 1)[:, None]
            covered = np.minimum(there + 1, edges[1:]) - np.maximum(there, edges[:-1])
            weights = np.maximum(covered, 0)
        return first, (weights / weights.sum(axis=0)).astype(np.float32)

    def needed(self, begin: int, end: int) -> tuple[int, int]:
        """Return the old voxels that a range of new ones is made of: the first, and one past."""
        first, weights = self.parts(begin, end)
        last = first + (len(weights) - 1 - np.argmax(weights[::-1] > 0, axis=0))
        return int(first.min()), int(last.max()) + 1


@dataclass(frozen=True)
class Resampling:
    """New voxels of a whole image.

    Attributes
    ----------
    axes : 3 AxisResampling
        Along z, y, x.
    """

    axes: tuple[AxisResampling, AxisResampling, AxisResampling]

    @classmethod
    def of(cls, shape: Sequence[int], ratio: Sequence[float]) -> Resampling:
        """Cover an image with new voxels.

        Parameters
        ----------
        shape : 3 ints
            Shape of the image, voxels.
        ratio : 3 numbers
            Size of a new voxel, in old ones.

        Examples
        --------
        >>> halved = Resampling.of((4, 6, 7), (1, 2, 2))
        >>> halved.shape
        (4, 3, 4)
        >>> halved.needed((0, 0, 1), (4, 1, 3))
        ((0, 0, 2), (4, 2, 6))
        """
        z, y, x = (AxisResampling.of(int(n), float(r)) for n, r in zip(shape, ratio, strict=True))
        return cls((z, y, x))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of new voxels along z, y, x."""
        z, y, x = (axis.new for axis in self.axes)
        return z, y, x

    @property
    def back(self) -> Resampling:
        """The way back, from the new voxels to the old ones."""
        z, y, x = (AxisResampling(axis.new, axis.old, 1 / axis.ratio) for axis in self.axes)
        return Resampling((z, y, x))

    def needed(
        self, begin: Sequence[int], end: Sequence[int]
    ) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Return the box of old voxels that a box of new ones is made of: corner, and end."""
        found = [axis.needed(b, e) for axis, b, e in zip(self.axes, begin, end, strict=True)]
        (z, to_z), (y, to_y), (x, to_x) = found
        return (z, y, x), (to_z, to_y, to_x)

    def apply(self, values: np.ndarray, begin: Sequence[int], end: Sequence[int]) -> np.ndarray:
        """Make a box of new voxels.

        Parameters
        ----------
        values : (..., z, y, x) array
            Old voxels of the box that `needed` says.
        begin, end : 3 ints
            First new voxel of the box, and one past its last.

        Returns
        -------
        (..., z, y, x) float32 array
        """
        for number, (axis, low, high) in enumerate(zip(self.axes, begin, end, strict=True)):
            if axis.ratio == 1:
                continue
            first, weights = axis.parts(low, high)
            place = values.ndim - 3 + number
            length = values.shape[place]
            along = [-1 if n == place else 1 for n in range(values.ndim)]
            total: np.ndarray | None = None
            for step, weight in enumerate(weights):
                voxels = np.minimum(first + step - first[0], length - 1)
                term = values.take(voxels, axis=place) * weight.reshape(along)
                total = term if total is None else np.add(total, term, out=total)
            values = values if total is None else total
        return np.asarray(values, np.float32)

    def reached(self, wanted: np.ndarray, begin: Sequence[int]) -> np.ndarray:
        """Tell which old voxels some new ones are made of.

        Parameters
        ----------
        wanted : (z, y, x) bool array
            Whether each new voxel of a box is wanted.
        begin : 3 ints
            First new voxel of the box.

        Returns
        -------
        (z, y, x) bool array
            Of the box that `needed` says.
        """
        for number, axis in enumerate(self.axes):
            rows = np.moveaxis(wanted, number, 0)
            low = begin[number]
            first, last = axis.needed(low, low + len(rows))
            found = np.zeros((last - first, *rows.shape[1:]), bool)
            for place, row in enumerate(rows, start=low):
                a, b = axis.needed(place, place + 1)
                found[a - first : b - first] |= row
            wanted = np.moveaxis(found, 0, number)
        return wanted
