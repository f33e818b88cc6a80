"""Boxes drawn at random, which reviewers search for missed synapses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from synpol.review.verdicts import Verdict


def random_boxes(
    low: np.ndarray, high: np.ndarray, size: np.ndarray, count: int, seed: int
) -> tuple[np.ndarray, int]:
    """Draw boxes of a volume at random, of those that fill it side by side.

    Each place of the volume lies in one box, and each box is drawn with the same probability.

    Parameters
    ----------
    low, high : (3,) float64
        Corners of the volume, z, y, x; nm.
    size : (3,) float64
        Size of a box, nm; those at the upper border are cut.
    count : int
        Most boxes to draw.
    seed : int

    Returns
    -------
    (k, 2, 3) float64
        Lower and upper corner of each box, in the order of drawing.
    int
        Number of all boxes of the volume.
    """
    grid = np.maximum(1, np.ceil((high - low) / size - 1e-9)).astype(np.int64)
    total = int(grid.prod())
    rng = np.random.default_rng([seed % 2**32, 0x626F78])
    if total <= 4 * count:
        cells = rng.permutation(total)[:count]
    else:
        drawn = rng.integers(0, total, 2 * count)
        cells = drawn[np.sort(np.unique(drawn, return_index=True)[1])][:count]
    index = np.stack(np.unravel_index(cells, tuple(grid)), axis=1)
    corner = low + index * size
    return np.stack([corner, np.minimum(corner + size, high)], axis=1), total


def is_box(verdict: Verdict, box: np.ndarray) -> bool:
    """Whether a verdict is about a box."""
    return bool(np.allclose([verdict.pre, verdict.post], box, atol=0.05))


def _middle(verdict: Verdict) -> np.ndarray:
    return np.asarray((np.array(verdict.pre) + verdict.post) / 2)


def is_in(verdict: Verdict, box: np.ndarray) -> bool:
    """Whether the middle of a synapse lies in a box."""
    middle = _middle(verdict)
    return bool((box[0] <= middle).all() and (middle < box[1]).all())


def count_in(missed: Sequence[Verdict], box: np.ndarray, distance: float) -> int:
    """Return how many missed synapses lie in a box; one that two reviewers added counts once."""
    counted: list[np.ndarray] = []
    for one in missed:
        middle = _middle(one)
        near = any(np.linalg.norm(middle - other) <= distance for other in counted)
        if is_in(one, box) and not near:
            counted.append(middle)
    return len(counted)
