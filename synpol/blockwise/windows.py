"""Sliding windows: where they stand, how they are blended.

Windows stand on one grid anchored at the first voxel of the *volume*, not of a block, and are added
up in the grid's C order. So a voxel's probability does not depend on the block it was computed in.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np

Blending = Literal["bump", "gaussian", "constant"]


def window_starts(length: int, window: int, overlap: float) -> list[int]:
    """First voxels of the windows along an axis.

    Parameters
    ----------
    length, window : int
        Voxels of the volume and of a window.
    overlap : float
        Of neighbours, as a fraction of a window.

    Returns
    -------
    list of int
        The last window is moved back to end with the volume; a volume smaller than a window has
        one window, which is padded.

    Examples
    --------
    >>> window_starts(40, 16, 0.5)
    [0, 8, 16, 24]
    >>> window_starts(41, 16, 0.5)
    [0, 8, 16, 24, 25]
    """
    if length <= window:
        return [0]
    step = max(1, round(window * (1 - overlap)))
    starts = list(range(0, length - window + 1, step))
    if starts[-1] != length - window:
        starts.append(length - window)
    return starts


def windows_of_block(
    shape: Sequence[int],
    window: Sequence[int],
    overlap: float,
    begin: Sequence[int],
    end: Sequence[int],
) -> list[tuple[int, int, int]]:
    """First voxels of the windows that reach into a block, in C order of the volume's grid."""
    axes = [
        [s for s in window_starts(n, w, overlap) if s < e and s + w > b]
        for n, w, b, e in zip(shape, window, begin, end, strict=True)
    ]
    z, y, x = axes
    return list(itertools.product(z, y, x))


def blending_weights(window: Sequence[int], kind: Blending) -> np.ndarray:
    """Weight of each voxel of a window.

    Parameters
    ----------
    window : 3 ints
    kind : {"bump", "gaussian", "constant"}
        ``bump`` is that of Lee et al., arXiv:1706.00120 (exponent 1.5), ``gaussian`` has a standard
        deviation of 0.2 half windows; both have a floor of 1e-4, as in PyTorch Connectomics.

    Returns
    -------
    (z, y, x) float32
    """
    if kind == "constant":
        return np.ones(tuple(window), np.float32)
    if kind == "bump":
        place = [np.arange(1, n + 1) / (n + 1) for n in window]
        cost = [(p * (1 - p)) ** -1.5 for p in place]
    else:
        cost = [np.linspace(-1, 1, n) ** 2 / (2 * 0.2**2) for n in window]
    total = cost[0][:, None, None] + cost[1][:, None] + cost[2]
    if kind == "bump":
        total -= total.min()
    return (1e-4 + np.exp(-total)).astype(np.float32)


def predict_block(
    read: Callable[[tuple[slice, slice, slice]], np.ndarray],
    network: Callable[[np.ndarray], np.ndarray],
    shape: Sequence[int],
    begin: Sequence[int],
    end: Sequence[int],
    *,
    window: Sequence[int],
    overlap: float,
    weights: np.ndarray,
    batch_size: int,
) -> np.ndarray:
    """Probabilities of one block.

    Parameters
    ----------
    read : callable
        Returns the normalised image of some slices of the volume; float32 (z, y, x).
    network : callable
        Probabilities (n, 3, z, y, x) of windows (n, 1, z, y, x).
    shape : 3 ints
        Of the volume, voxels.
    begin, end : 3 ints
        Of the block, voxels.
    window, overlap, weights, batch_size
        See `window_starts` and `blending_weights`.

    Returns
    -------
    (3, z, y, x) uint8
        0..255 for 0..1. A window over a constant image counts as all zero; the network does not
        see it.
    """
    starts = windows_of_block(shape, window, overlap, begin, end)
    low = np.min(starts, axis=0)
    high = np.minimum(np.max(starts, axis=0) + np.array(window), shape)
    z, y, x = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    image = read((z, y, x))
    size = [e - b for b, e in zip(begin, end, strict=True)]
    if image.min() == image.max():
        return np.zeros((3, *size), np.uint8)
    missing = [max(0, w - n) for w, n in zip(window, shape, strict=True)]
    if any(missing):
        image = np.pad(image, [(0, m) for m in missing], mode="reflect")
    total = np.zeros((3, *size), np.float32)
    weight = np.zeros(size, np.float32)
    seen = []
    for start in starts:
        patch = image[_box(np.array(start) - low, window)]
        if patch.min() != patch.max():
            seen.append(start)
            continue
        here, there = _meeting(start, window, begin, end)
        weight[here] += weights[there]
    for batch in _batches(seen, batch_size):
        patches = np.stack([image[_box(np.array(s) - low, window)] for s in batch])
        for start, probability in zip(batch, network(patches[:, None]), strict=True):
            here, there = _meeting(start, window, begin, end)
            total[:, *here] += probability[:, *there] * weights[there]
            weight[here] += weights[there]
    return np.floor(total / weight * 255 + 0.5).astype(np.uint8)


def _box(begin: Sequence[int] | np.ndarray, size: Sequence[int] | np.ndarray) -> tuple[slice, ...]:
    return tuple(slice(int(b), int(b) + int(s)) for b, s in zip(begin, size, strict=True))


def _meeting(
    start: Sequence[int], window: Sequence[int], begin: Sequence[int], end: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where a window and a block meet: slices of the block, and of the window."""
    inside = [max(s, b) for s, b in zip(start, begin, strict=True)]
    until = [min(s + w, e) for s, w, e in zip(start, window, end, strict=True)]
    extent = np.array(until) - inside
    return _box(np.array(inside) - begin, extent), _box(np.array(inside) - start, extent)


def _batches(
    starts: Sequence[tuple[int, int, int]], size: int
) -> Iterator[Sequence[tuple[int, int, int]]]:
    for first in range(0, len(starts), size):
        yield starts[first : first + size]
