"""Find the nearest neuron of voxels that lie in none: on membranes, 0 in the segmentation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: two distances that differ by less than this share of them are compared exactly
_ALIKE = 1e-6
#: decimals of a distance (nm) that count
_DECIMALS = 6


def reach_of(distance: float, size: Sequence[float]) -> tuple[int, int, int]:
    """Return the number of voxels along z, y, x that lie within a distance, nm."""
    z, y, x = (int(distance / s + _ALIKE) for s in size)
    return z, y, x


def nearest_neurons(
    neurons: np.ndarray, at: np.ndarray, size: Sequence[float], distance: float
) -> np.ndarray:
    """Find the nearest neuron of some voxels.

    Parameters
    ----------
    neurons : (z, y, x) array of integers
        Neurons, 0 between them. It has all voxels within `distance` of those in `at`, but for
        voxels beyond the end of the volume.
    at : (n, 3) int64
        Voxels, z, y, x.
    size : 3 numbers
        Voxel size, nm.
    distance : float
        Largest distance of the centres of two voxels, nm.

    Returns
    -------
    (n,) array
        Neuron of the nearest voxel; of several such voxels the first in the order of z, y, x; 0
        without a neuron within the distance.
    """
    found = np.zeros(len(at), neurons.dtype)
    if not len(at):
        return found
    from scipy.ndimage import distance_transform_edt

    reach = reach_of(distance, size)
    low = np.maximum(at.min(axis=0) - reach, 0)
    high = np.minimum(at.max(axis=0) + reach + 1, neurons.shape)
    near = neurons[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    if not near.any():
        return found
    at = at - low
    far = distance_transform_edt(near == 0, sampling=size)[tuple(at.T)]
    offsets, length = _offsets(reach, size, distance)
    first = np.searchsorted(length, far * (1 - _ALIKE))
    last = np.searchsorted(length, far * (1 + _ALIKE), side="right")
    left = np.flatnonzero(first < last)
    while len(left):  # offsets of the right length, in their order
        place = at[left] + offsets[first[left]]
        inside = ((place >= 0) & (place < near.shape)).all(axis=1)
        found[left[inside]] = near[tuple(place[inside].T)]
        first[left] += 1
        left = left[(found[left] == 0) & (first[left] < last[left])]
    return found


def _offsets(
    reach: Sequence[int], size: Sequence[float], distance: float
) -> tuple[np.ndarray, np.ndarray]:
    """List the offsets within a distance by length, then by z, y, x; and their lengths, nm."""
    axes = np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij")
    offsets = np.stack([axis.ravel() for axis in axes], axis=1)
    length = np.round(np.sqrt(((offsets * np.array(size, float)) ** 2).sum(axis=1)), _DECIMALS)
    offsets, length = offsets[length <= distance], length[length <= distance]
    order = np.argsort(length, kind="stable")  # they are in the order of z, y, x
    return offsets[order], length[order]
