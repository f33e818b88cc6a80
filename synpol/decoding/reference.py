"""Turn polarity into synapse instances on an array in memory: the reference, and its parts.

`polarity2instance` defines what an instance is. The stages of `synpol.decoding` compute the same on
volumes of any size, voxel for voxel and id for id. They use the parts in this module: the rule for
foreground voxels (`Threshold`) and the labelling of components.

The function follows the function of that name in PyTorch Connectomics (Lin et al., 2021,
arXiv:2112.05754), without the overflow of its label type. Like that function it does not vote: the
channels of a voxel alone decide its side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cc3d
import numpy as np

from synpol.decoding.dilation import Box, checked_box, dilate
from synpol.decoding.probabilities import (
    SURELY_255,
    as_probabilities,
    check_full_scale,
    counted_channels,
)
from synpol.errors import InputError
from synpol.polarity import Channels, side_labels


@dataclass(frozen=True)
class Threshold:
    """Decide which voxels are foreground.

    Attributes
    ----------
    level : float or int
        A voxel counts where its value is above this; a Python number, so that numpy compares in
        the array's own type.
    exclusive : bool
        Instead the largest of background, pre, post decides, ties to the first.
    """

    level: float | int
    exclusive: bool = False

    def union(self, volume: np.ndarray) -> np.ndarray:
        """Return the union voxels of a ``(3, ...)`` array, or of its union alone; bool (...)."""
        channels = Channels.of(self.exclusive)
        if self.exclusive:
            return channels.sides(volume).max(axis=0) > channels.background(volume)
        return (volume[0] if len(volume) == 1 else channels.union(volume)) > self.level

    def foreground(self, volume: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return pre, post and union voxels of a ``(3, ...)`` array; bool (...) each.

        Pre and post voxels are always union voxels.
        """
        channels = Channels.of(self.exclusive)
        if self.exclusive:
            background = channels.background(volume)
            first, second = channels.sides(volume)
            pre = (first > background) & (first >= second)
            post = (second > background) & (second > first)
            return pre, post, pre | post
        above = volume > self.level
        (pre, post), union = channels.sides(above), channels.union(above)
        pre &= union
        post &= union
        return pre, post, union


def threshold_of(dtype: np.dtype, thres: float, exclusive: bool, full_scale: bool) -> Threshold:
    """Return the threshold for arrays of a type.

    Parameters
    ----------
    dtype : dtype
        Type of the polarity array.
    thres : float
        Probability.
    exclusive : bool
        Whether the channels are background, pre and post.
    full_scale : bool
        Whether a float array holds 0..255 instead of 0..1. Integer arrays always hold 0..255.
    """
    if dtype.kind == "f" and not full_scale:
        return Threshold(float(thres), exclusive)
    return Threshold(int(255.0 * float(thres)), exclusive)


def check_options(
    shape: tuple[int, ...],
    thres: float,
    thres_small: int,
    dilate_sz: int | Sequence[int],
    dtype: np.dtype,
) -> None:
    """Raise InputError for an option or an array that cannot be used.

    Raises
    ------
    InputError
        Naming the option, its value and what is expected.
    """
    if len(shape) != 4 or shape[0] != Channels.count:
        raise InputError(
            f"the polarity array has the shape {shape}; ({Channels.count}, z, y, x) is expected"
        )
    if dtype.kind not in "fui":
        raise InputError(f"the polarity array is {dtype}; uint8 or float is expected")
    if not 0 <= thres <= 1:
        raise InputError(f"thres is {thres}; a probability in 0..1 is expected")
    checked_box(dilate_sz)
    if not thres_small >= 0 or int(thres_small) != thres_small:
        raise InputError(
            f"thres_small is {thres_small}; a whole number of voxels from 0 on is expected"
        )


def components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Label face-connected components, numbered by their first voxel in C order.

    Parameters
    ----------
    mask : (z, y, x) bool array

    Returns
    -------
    labels : (z, y, x) array of unsigned integers
    count : int
    """
    if mask.size == 0 or not mask.any():
        return np.zeros(mask.shape, np.uint16), 0
    labels, count = cc3d.connected_components(
        np.ascontiguousarray(mask), connectivity=6, return_N=True
    )
    return labels, int(count)


@dataclass(frozen=True)
class Foreground:
    """Foreground voxels of a volume, and the steps of `polarity2instance` after the threshold.

    Attributes
    ----------
    union : (z, y, x) bool array
    sides : tuple of ((z, y, x) array, (n + 1,) int64 array)
        For pre and for post: labels of the components, and number of voxels of each component.
        Empty where the union alone counts.
    """

    union: np.ndarray
    sides: tuple[tuple[np.ndarray, np.ndarray], ...]

    @classmethod
    def of(cls, volume: np.ndarray, threshold: Threshold, sides: bool = True) -> Foreground:
        """Find the foreground of a ``(3, z, y, x)`` polarity array."""
        pre, post, union = threshold.foreground(volume)
        parts = []
        for side in (pre, post) if sides else ():
            labels, count = components(side)
            parts.append((labels, np.bincount(labels.ravel(), minlength=count + 1)))
        return cls(union, tuple(parts))

    def synapses(self, dilate_sz: Box) -> np.ndarray:
        """Label the components of the dilated union; (z, y, x)."""
        return components(dilate(self.union, dilate_sz))[0]

    def large_sides(self, thres_small: int) -> list[np.ndarray]:
        """Return the pre and the post voxels whose component is large enough; (z, y, x) bool."""
        large = []
        for labels, voxels in self.sides:
            kept = voxels >= thres_small
            kept[0] = False
            large.append(kept[labels])
        return large

    def instances(self, synapses: np.ndarray, thres_small: int) -> np.ndarray:
        """Label the voxels by their synapse and side; (z, y, x) uint64."""
        if self.sides:
            pre, post = self.large_sides(thres_small)
            return side_labels(synapses.astype(np.uint64), pre, post)
        inside = np.where(self.union, synapses, 0)
        kept = np.bincount(inside.ravel()) >= thres_small
        return np.where(kept[inside], inside, 0).astype(np.uint64)


def polarity2instance(
    volume: np.ndarray,
    thres: float = 0.5,
    thres_small: int = 128,
    scale_factors: Sequence[float] = (1, 1, 1),
    semantic: bool = False,
    dilate_sz: int | Sequence[int] = 5,
    exclusive: bool = False,
    sides: bool = True,
) -> np.ndarray:
    """Group the voxels of a polarity array into synapses.

    The union is dilated, in plane by default, and split into face-connected components; the n-th
    of them, by its first voxel in C order, is synapse n. Its pre side are the voxels above
    threshold in both pre and union, less components of such voxels that are too small; its post
    side likewise. Where both sides are left on a voxel it is post.

    Parameters
    ----------
    volume : (3, z, y, x) array
        Channels pre, post, union (exclusive: background, pre, post). uint8 is 0..255 for the
        probability 0..1; so is a float array whose maximum is above 2. Other floats are 0..1, and
        up to 1.001 counts as 1, because blended probabilities are rounded.
    thres : float
        A voxel counts above this probability (above ``int(255 * thres)`` on the 0..255 scale).
    thres_small : int
        Components of a side with fewer voxels are dropped.
    scale_factors : 3 floats
        The result is resized by these (z, y, x), nearest neighbour.
    semantic : bool
        1 on pre and 2 on post instead of numbers.
    dilate_sz : int or 3 ints
        Side of the (1, d, d) box of the dilation, or sides (z, y, x) of the box, voxels.
    exclusive : bool
        The largest channel decides, ties to the first; `thres` has no say.
    sides : bool
        False for data that marks synapses without sides: only the union counts, components with at
        least `thres_small` union voxels keep the number n, and their union voxels carry it.

    Returns
    -------
    (z, y, x) array
        2n-1 on the pre and 2n on the post side of synapse n (n with ``sides=False``), 0 elsewhere;
        the smallest unsigned type that holds the largest label. A synapse that lost both sides
        uses up its number; one may have a single side.

    Raises
    ------
    InputError
        Another shape or type, an option that cannot be meant, or values that are no probabilities:
        NaN, infinite or negative ones, a float maximum between 1.001 and 2, or one above 255.

    References
    ----------
    Lin et al., "Two Stream Active Query Suggestion for Active Learning in Connectomics", ECCV 2020.

    Examples
    --------
    >>> import numpy as np
    >>> volume = np.zeros((3, 1, 1, 9), dtype=np.uint8)
    >>> volume[0, ..., 0:2] = volume[1, ..., 3:5] = 255
    >>> volume[2, ..., 0:5] = volume[2, ..., 8] = 255
    >>> polarity2instance(volume, thres_small=2, dilate_sz=1)[0, 0].tolist()
    [1, 1, 0, 2, 2, 0, 0, 0, 0]
    """
    volume = np.asarray(volume)
    check_options(volume.shape, thres, thres_small, dilate_sz, volume.dtype)
    counted = volume[counted_channels(sides, exclusive)]
    full_scale = volume.dtype.kind != "f" or float(counted.max(initial=0)) > SURELY_255
    if full_scale:
        check_full_scale(counted)
    elif as_probabilities(counted, "the values of the polarity array") is not counted:
        volume = np.minimum(volume, volume.dtype.type(1))
    threshold = threshold_of(volume.dtype, thres, exclusive, full_scale)
    foreground = Foreground.of(volume, threshold, sides)
    if semantic and sides:
        pre, post = foreground.large_sides(thres_small)
        instances = side_labels(np.uint64(1), pre, post)
    else:
        instances = foreground.instances(foreground.synapses(checked_box(dilate_sz)), thres_small)
        if semantic:
            instances = (instances > 0).astype(np.uint64)
    if any(factor != 1 for factor in scale_factors):
        instances = _rescale(instances, scale_factors)
    return instances.astype(np.min_scalar_type(instances.max(initial=0)))


def rescaled_shape(shape: tuple[int, ...], scale_factors: Sequence[float]) -> tuple[int, ...]:
    """Return the shape of resized instances.

    Raises
    ------
    InputError
        Not three positive numbers, or an axis would have no voxel left.
    """
    try:
        good = len(scale_factors) == 3 and all(0 < float(f) < float("inf") for f in scale_factors)
    except (TypeError, ValueError):
        good = False
    if not good:
        raise InputError(f"scale_factors is {scale_factors}; three positive numbers are expected")
    target = tuple(int(s * f) for s, f in zip(shape, scale_factors, strict=True))
    if min(target) < 1:
        raise InputError(
            f"scale_factors {tuple(scale_factors)} leave {target} voxels of {tuple(shape)}; at "
            "least one on every axis is expected"
        )
    return target


def nearest_voxels(size: int, target: int) -> np.ndarray:
    """Find the source voxel of each voxel of a resized axis, as scipy's zoom does.

    Parameters
    ----------
    size, target : int
        Number of voxels of the axis before and after.

    Returns
    -------
    (target,) int64 array, increasing
    """
    from scipy.ndimage import zoom

    return zoom(np.arange(size), target / size, order=0, mode="nearest")


def _rescale(instances: np.ndarray, scale_factors: Sequence[float]) -> np.ndarray:
    target = rescaled_shape(instances.shape, scale_factors)
    return instances[np.ix_(*map(nearest_voxels, instances.shape, target))]
