"""Read boxes of label volumes on the voxel grid of another image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import zarr

from synpol.images.reading import read_voxels

if TYPE_CHECKING:
    from synpol.config import ImageSource


def read_region(
    array: zarr.Array,
    where: Sequence[slice],
    source: str | ImageSource,
    multiple: Sequence[int] = (1, 1, 1),
) -> np.ndarray:
    """Read a box of labels that may have larger voxels, and that may end before the box does.

    Parameters
    ----------
    array : zarr.Array
        Labels, (z, y, x).
    where : 3 slices
        Box to read, in the finer voxels, counted from the first voxel of the array; it may begin
        before that voxel.
    source : str or ImageSource
        Path of the array, or the mapping that names it, for messages.
    multiple : 3 ints
        Number of finer voxels along each axis of a voxel of the array.

    Returns
    -------
    (z, y, x) array
        Labels of the finer voxels; 0 beyond the array.
    """
    coarse = [slice(w.start // m, -(-w.stop // m)) for w, m in zip(where, multiple, strict=True)]
    labels = _read(array, coarse, source)
    for axis, (wanted, m) in enumerate(zip(where, multiple, strict=True)):
        if m > 1:
            first = wanted.start % m
            inside = [slice(None)] * 3
            inside[axis] = slice(first, first + wanted.stop - wanted.start)
            labels = np.repeat(labels, m, axis=axis)[tuple(inside)]
    return labels


def _read(array: zarr.Array, where: Sequence[slice], source: str | ImageSource) -> np.ndarray:
    """Read a box; 0 beyond the array."""
    there = [
        slice(min(max(w.start, 0), n), max(min(w.stop, n), 0))
        for w, n in zip(where, array.shape, strict=True)
    ]
    if there == list(where):
        return read_voxels(array, tuple(there), source)
    labels = np.zeros([w.stop - w.start for w in where], array.dtype)
    if all(t.start < t.stop for t in there):
        inside = (
            slice(t.start - w.start, t.stop - w.start) for t, w in zip(there, where, strict=True)
        )
        labels[tuple(inside)] = read_voxels(array, tuple(there), source)
    return labels
