"""Prediction windows: one grid for every block, held to a plain sliding-window loop."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from synpol.blockwise.geometry import BlockGrid
from synpol.blockwise.stage import blocks_of
from synpol.blockwise.windows import blending_weights, predict_block, window_starts


def network(windows: np.ndarray) -> np.ndarray:
    """A fixed network whose answer at a voxel depends on where it lies in its window."""
    z, y, x = np.meshgrid(*(np.linspace(0, 1, n) for n in windows.shape[2:]), indexing="ij")
    value = windows[:, 0] * 0.7 + 0.3 * (z + y + x) / 3
    return np.stack([value, value**2, 1 - value], axis=1).astype(np.float32)


def by_blocks(image, block, window, overlap, blending, batch_size=3):
    grid = BlockGrid.of(image.shape, block)
    out = np.zeros((3, *image.shape), np.uint8)
    for index in blocks_of(grid.grid):
        out[(slice(None), *grid.slices(index))] = predict_block(
            lambda where: image[where],
            network,
            image.shape,
            *grid.bounds(index),
            window=window,
            overlap=overlap,
            weights=blending_weights(window, blending),
            batch_size=batch_size,
        )
    return out


def plain_loop(image, window, overlap, blending):
    """The textbook: every window of the whole volume, added up with its weights."""
    padded = np.pad(
        image,
        [(0, max(0, w - n)) for w, n in zip(window, image.shape, strict=True)],
        mode="reflect",
    )
    total, weight = np.zeros((3, *padded.shape)), np.zeros(padded.shape)
    step = [max(1, round(w * (1 - overlap))) for w in window]
    starts = []
    for n, w, s in zip(padded.shape, window, step, strict=True):
        axis = list(range(0, n - w, s)) + [n - w]
        starts.append(sorted(set(axis)))
    weights = blending_weights(window, blending)
    for z in starts[0]:
        for y in starts[1]:
            for x in starts[2]:
                box = tuple(slice(a, a + w) for a, w in zip((z, y, x), window, strict=True))
                total[:, *box] += network(padded[box][None, None])[0] * weights
                weight[box] += weights
    z, y, x = image.shape
    return np.floor(total / weight * 255 + 0.5)[:, :z, :y, :x]


shapes = st.tuples(st.integers(2, 9), st.integers(2, 14), st.integers(2, 14))


@settings(max_examples=60)
@given(
    st.integers(0, 10**6),
    shapes,
    shapes,
    shapes,
    st.tuples(st.integers(2, 5), st.integers(2, 6), st.integers(2, 6)),
    st.sampled_from([0.0, 0.3, 0.5, 0.75]),
    st.sampled_from(["bump", "gaussian", "constant"]),
)
def test_any_blocks_give_one_array_and_it_is_the_plain_loops(
    seed, shape, block, other, window, overlap, blending
):
    image = np.random.default_rng(seed).random(shape).astype(np.float32)
    found = by_blocks(image, block, window, overlap, blending).astype(int)
    again = by_blocks(image, other, window, overlap, blending, batch_size=5).astype(int)
    assert np.abs(found - again).max() <= 1
    assert np.abs(found - plain_loop(image, window, overlap, blending)).max() <= 1


@given(st.integers(1, 60), st.integers(1, 20), st.floats(0, 0.95))
def test_windows_cover_an_axis_and_stay_inside(length, window, overlap):
    starts = window_starts(length, window, overlap)
    covered = {v for s in starts for v in range(s, s + window)}
    assert covered >= set(range(length))
    assert starts == sorted(set(starts))
    assert len(starts) == 1 or starts[-1] + window == length


def test_a_constant_image_is_written_as_zeros_without_running_the_network():
    image = np.full((4, 6, 6), 0.3, np.float32)

    def never(windows):
        raise AssertionError("the network ran")

    result = predict_block(
        lambda where: image[where],
        never,
        image.shape,
        (0, 0, 0),
        (4, 6, 6),
        window=(2, 4, 4),
        overlap=0.5,
        weights=blending_weights((2, 4, 4), "bump"),
        batch_size=2,
    )
    assert result.shape == (3, 4, 6, 6)
    assert result.max() == 0


@pytest.mark.parametrize("kind", ["bump", "gaussian", "constant"])
def test_weights_are_symmetric_positive_and_highest_in_the_middle(kind):
    weights = blending_weights((5, 8, 7), kind)
    assert weights.dtype == np.float32
    assert (weights > 0).all()
    assert np.allclose(weights, weights[::-1, ::-1, ::-1])
    assert weights.argmax() in (0, np.ravel_multi_index((2, 3, 3), weights.shape))
