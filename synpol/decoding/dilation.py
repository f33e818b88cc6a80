"""Dilate masks with boxes, as the decoder does before it looks for synapses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from synpol.errors import InputError

#: box of a dilation in voxels: d for (1, d, d), or three numbers (z, y, x)
type Box = int | tuple[int, int, int]


def checked_box(dilate_sz: int | Sequence[int]) -> Box:
    """Return a box in its one spelling: d where it is (1, d, d), else three numbers.

    Raises
    ------
    InputError
        Not one or three whole numbers from 1 on.
    """
    given = np.atleast_1d(np.asarray(dilate_sz, dtype=object)).tolist()
    try:
        sides = [int(side) for side in given]
        good = len(sides) in (1, 3) and sides == given and min(sides) >= 1
    except (TypeError, ValueError, OverflowError):
        good = False
    if not good:
        raise InputError(
            f"dilate_sz is {dilate_sz}; a whole number from 1 on is expected (1: no dilation), or "
            "three of them for z, y and x"
        )
    if len(sides) == 1:
        return sides[0]
    z, y, x = sides
    return y if (z, y) == (1, x) else (z, y, x)


def box_shape(box: Box) -> tuple[int, int, int]:
    """Return the sides (z, y, x) of a box, voxels."""
    return (1, box, box) if isinstance(box, int) else box


def halo(box: Box) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Return the voxels (z, y, x) that a dilation needs below and above each voxel."""
    z, y, x = box_shape(box)
    return ((z - 1) // 2, (y - 1) // 2, (x - 1) // 2), (z // 2, y // 2, x // 2)


def lacks_sections(box: Box, voxel_size: Sequence[float]) -> bool:
    """Say whether a box joins sides within a section alone though sections are as thin as pixels.

    Parameters
    ----------
    box : int or 3 ints
        Box of the dilation.
    voxel_size : 3 numbers
        Size of a voxel, z, y, x, in any unit.
    """
    z, y, x = box_shape(box)
    thickness, *width = voxel_size
    return z == 1 and max(y, x) > 1 and thickness <= 1.5 * min(width)


def dilate(mask: np.ndarray, box: Box) -> np.ndarray:
    """Dilate a mask with a box.

    Parameters
    ----------
    mask : (z, y, x) bool array
    box : int or 3 ints
        Sides in voxels; an even side reaches ``(side - 1) // 2`` voxels towards higher and
        ``side // 2`` towards lower coordinates, as scipy and scikit-image have it.

    Returns
    -------
    (z, y, x) bool array

    Notes
    -----
    The box is separable, and a run of n is the union of two shifted runs of about n/2, so a
    dilation by n takes about 2 log2(n) passes over bits.
    """
    below, above = halo(box)
    for axis in (2, 1, 0):
        mask = _spread(mask, axis, below[axis], above[axis])
    return mask


def _spread(mask: np.ndarray, axis: int, below: int, above: int) -> np.ndarray:
    size = below + above + 1
    if size == 1:
        return mask
    padding = [(0, 0)] * mask.ndim
    padding[axis] = (below, above)
    run = np.pad(mask, padding)
    before, after = [slice(None)] * mask.ndim, [slice(None)] * mask.ndim
    # run[p] covers mask[p - below .. p - below + width - 1]; widen it to `size`
    width = 1
    while width < size:
        step = min(width, size - width)
        before[axis], after[axis] = slice(None, -step), slice(step, None)
        run = run[tuple(before)] | run[tuple(after)]
        width += step
    return run
