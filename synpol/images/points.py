"""Read an image at single points."""

from __future__ import annotations

import numpy as np

from synpol.images.image import Image


def values_at(image: Image, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Read the value of an image at each of many points.

    Points in the same chunk are read together, so the memory is that of one chunk.

    Parameters
    ----------
    image : Image
        Image of one channel.
    points : (n, 3) float
        Places in the world, z, y, x; nm.

    Returns
    -------
    values : (n,) of the image's dtype
        0 outside of the image.
    inside : (n,) bool
        Which points lie inside the image.
    """
    size, corner = np.array(image.voxel_size_nm, float), np.array(image.offset_nm, float)
    voxels = np.floor((points - corner) / size).astype(np.int64)
    inside = ((voxels >= 0) & (voxels < image.shape_vx)).all(axis=1)
    values = np.zeros(len(points), image.array.dtype)
    which = np.flatnonzero(inside)
    chunk = np.array(image.array.chunks[-3:])
    chunks = voxels[which] // chunk
    order = np.lexsort(chunks.T)
    starts = np.flatnonzero(np.diff(chunks[order], axis=0, prepend=-1).any(axis=1))
    for some in np.split(which[order], starts[1:]):
        if not some.size:
            continue
        begin, end = voxels[some].min(axis=0), voxels[some].max(axis=0) + 1
        box = np.asarray(image.array[tuple(map(slice, begin, end))])
        values[some] = box[tuple((voxels[some] - begin).T)]
    return values, inside
