"""Lay out the windows of a prediction whose config says little or nothing of them."""

from __future__ import annotations

import math

from synpol.config.inference import Predict
from synpol.config.section import Triple


def with_recipe_windows(predict: Predict, patch: Triple) -> Predict:
    """Fill in what a config does not say of the windows, as the EM-R50 recipe has it.

    Parameters
    ----------
    predict : Predict
        Section of the config.
    patch : (int, int, int)
        Patch of the training, voxels.
    """
    overlap = 0.5 if predict.overlap is None else predict.overlap
    filled = {"window": predict.window or patch, "overlap": overlap}
    return predict.model_copy(update=filled | {"blending": predict.blending or "bump"})


def with_cheap_windows(predict: Predict, patch: Triple, multiple: int) -> Predict:
    """Choose windows of which the middle counts, a power of two long, so that few voxels recur.

    Blocks of powers of two then share no window, and every voxel is seen about twice.

    Parameters
    ----------
    predict : Predict
        Section of a config that does not name windows.
    patch : (int, int, int)
        Patch of the training, voxels.
    multiple : int
        Whole number that has to divide a window along y and x.

    Examples
    --------
    >>> found = with_cheap_windows(Predict(), (18, 256, 256), 16)
    >>> found.window, found.overlap, found.blending, found.batch_size
    ((20, 320, 320), (0.2, 0.2, 0.2), 'crop', 2)
    """
    axes = [_middle_and_margin(n, m) for n, m in zip(patch, (1, multiple, multiple), strict=True)]
    z, y, x = (middle + 2 * margin for middle, margin in axes)
    window = z, y, x
    at_once = predict.batch_size * math.prod(patch) // math.prod(window)
    overlap = tuple(2 * margin / w for (_, margin), w in zip(axes, window, strict=True))
    laid_out = {"window": window, "overlap": overlap, "blending": "crop"}
    return predict.model_copy(update=laid_out | {"batch_size": max(1, at_once)})


def _middle_and_margin(patch: int, multiple: int) -> tuple[int, int]:
    """Return how much of a window counts along an axis, and how much is left out at each end."""
    middle = 2 ** int(math.log2(max(1, 5 * patch // 3)))
    if middle == 1:
        return 1, 0
    margin = max(1, middle // 8)
    whole = -(-(middle + 2 * margin) // multiple) * multiple
    return middle, (whole - middle) // 2
