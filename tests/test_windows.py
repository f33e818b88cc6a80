"""Prediction windows: one grid for every block, held to a plain sliding-window loop."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from monai.inferers import sliding_window_inference

from synpol.blockwise.grid import BlockGrid
from synpol.blockwise.stage import blocks_of
from synpol.prediction.windows import BlockPredictor, WindowGrid, read_block, window_starts


def network(windows: torch.Tensor) -> torch.Tensor:
    """A fixed network whose answer at a voxel depends on where it lies in its window."""
    axes = [torch.linspace(0, 1, n) for n in windows.shape[2:]]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    value = windows[:, 0] * 0.7 + 0.3 * (z + y + x) / 3
    return torch.stack([value, value**2, 1 - value], dim=1)


def by_blocks(image, block, window, overlap, blending, batch_size=3, mask=None):
    blocks = BlockGrid.of(image.shape, block)
    grid = WindowGrid.of(image.shape, window, overlap, blending)
    predict = BlockPredictor(network, grid, batch_size)
    out = np.zeros((3, *image.shape), np.uint8)
    for index in blocks_of(blocks.grid):
        wanted = None if mask is None else mask[blocks.slices(index)]
        seen = read_block(grid, lambda where: image[where], *blocks.bounds(index), wanted)
        out[(slice(None), *blocks.slices(index))] = predict(seen)
    return out


def plain_loop(image, window, overlap, blending):
    """The textbook: every window of the whole volume, added up with its weights."""
    along = overlap if isinstance(overlap, tuple) else (overlap,) * 3
    margin = [
        int(w * o / 2) if blending == "crop" else 0 for w, o in zip(window, along, strict=True)
    ]
    padded = np.pad(
        image,
        [
            (m, m + max(0, w - n - 2 * m))
            for w, n, m in zip(window, image.shape, margin, strict=True)
        ],
        mode="reflect",
    )
    total, weight = np.zeros((3, *padded.shape)), np.zeros(padded.shape)
    starts = []
    for n, w, m, o in zip(padded.shape, window, margin, along, strict=True):
        step = w - 2 * m if blending == "crop" else max(1, round(w * (1 - o)))
        axis = list(range(0, n - w, step)) + [n - w]
        starts.append(sorted(set(axis)))
    weights = WindowGrid.of(image.shape, window, overlap, blending).weights()
    for z in starts[0]:
        for y in starts[1]:
            for x in starts[2]:
                box = tuple(slice(a, a + w) for a, w in zip((z, y, x), window, strict=True))
                given = torch.from_numpy(padded[box][None, None])
                total[:, *box] += network(given)[0].numpy() * weights
                weight[box] += weights
    inside = tuple(slice(m, m + n) for m, n in zip(margin, image.shape, strict=True))
    return np.floor(total[:, *inside] / weight[inside] * 255 + 0.5)


shapes = st.tuples(st.integers(2, 9), st.integers(2, 14), st.integers(2, 14))


@settings(max_examples=60)
@given(
    st.integers(0, 10**6),
    shapes,
    shapes,
    shapes,
    st.tuples(st.integers(2, 5), st.integers(2, 6), st.integers(2, 6)),
    st.sampled_from([0.0, 0.3, 0.5, 0.75, (0.0, 0.3, 0.75), (0.5, 0.25, 0.0)]),
    st.sampled_from(["bump", "gaussian", "constant", "crop"]),
)
def test_any_blocks_give_one_array_and_it_is_the_plain_loops(
    seed, shape, block, other, window, overlap, blending
):
    image = np.random.default_rng(seed).random(shape).astype(np.float32)
    found = by_blocks(image, block, window, overlap, blending).astype(int)
    again = by_blocks(image, other, window, overlap, blending, batch_size=5).astype(int)
    assert np.abs(found - again).max() <= 1
    assert np.abs(found - plain_loop(image, window, overlap, blending)).max() <= 1


@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 20))
def test_windows_cover_an_axis_and_stay_inside(length, window, step):
    step = min(step, window)
    starts = window_starts(length, window, step)
    covered = {v for s in starts for v in range(s, s + window)}
    assert covered >= set(range(length))
    assert starts == sorted(set(starts))
    assert len(starts) == 1 or starts[-1] + window == length


def test_with_crop_every_voxel_is_decided_by_a_window_that_sees_around_it():
    grid = WindowGrid.of((40, 40, 40), (16, 16, 16), 0.5, "crop")
    assert grid.margin == (4, 4, 4)
    assert grid.starts[0] == [-4, 4, 12, 20, 28]
    assert len(grid.of_block((0, 0, 0), (8, 8, 8))) == 1


def test_a_constant_image_is_written_as_zeros_without_running_the_network():
    image = np.full((4, 6, 6), 0.3, np.float32)

    def never(windows):
        raise AssertionError("the network ran")

    grid = WindowGrid.of(image.shape, (2, 4, 4), 0.5, "bump")
    seen = read_block(grid, lambda where: image[where], (0, 0, 0), (4, 6, 6))
    result = BlockPredictor(never, grid, 2)(seen)
    assert result.shape == (3, 4, 6, 6)
    assert result.max() == 0


def test_a_mask_saves_windows_and_changes_nothing_inside_it():
    image = np.random.default_rng(0).random((6, 20, 20)).astype(np.float32)
    mask = np.zeros(image.shape, bool)
    mask[:, 3:9, 4:8] = True
    window = (4, 6, 6)
    every = by_blocks(image, (6, 10, 10), window, 0.5, "bump")
    wanted = by_blocks(image, (6, 10, 10), window, 0.5, "bump", mask=mask)
    assert np.array_equal(wanted, every * mask)
    grid = WindowGrid.of(image.shape, window, 0.5, "bump")
    half = read_block(grid, lambda where: image[where], (0, 0, 0), image.shape, mask)
    assert 0 < len(half.seen) < grid.count


def test_windows_at_the_borders_of_blocks_are_counted_as_often_as_they_are_computed():
    grid = WindowGrid.of((30, 50, 41), (8, 10, 12), 0.5, "bump")
    blocks = BlockGrid.of((20, 40, 30), (7, 13, 30))
    offset = (4, 10, 11)
    computed = 0
    for index in blocks_of(blocks.grid):
        begin, end = blocks.bounds(index)
        computed += len(grid.of_block(np.add(begin, offset), np.add(end, offset)))
    assert grid.count_in(blocks, offset) == computed
    assert grid.count_in(BlockGrid.of(grid.shape, grid.shape)) == grid.count


def test_a_batch_that_does_not_fit_is_halved_and_the_result_is_the_same():
    image = np.random.default_rng(1).random((6, 20, 20)).astype(np.float32)
    grid = WindowGrid.of(image.shape, (4, 6, 6), 0.5, "bump")
    sizes, said = [], []

    def small(windows):
        sizes.append(len(windows))
        if len(windows) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return network(windows)

    seen = read_block(grid, lambda where: image[where], (0, 0, 0), image.shape)
    predict = BlockPredictor(small, grid, 8, say=said.append)
    result = predict(seen)
    assert sizes[:3] == [8, 4, 2]
    assert set(sizes[2:]) <= {1, 2}
    assert "going on with 2 (predict.batch_size)" in said[-1]
    expected = by_blocks(image, image.shape, (4, 6, 6), 0.5, "bump", batch_size=2)
    assert np.array_equal(result, expected)

    def never(windows):
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        BlockPredictor(never, grid, 4, say=said.append)(seen)


def test_the_array_is_monais_where_the_modes_coincide():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv3d(1, 3, 3, padding=1), torch.nn.Sigmoid()).eval()
    image = np.random.default_rng(2).random((13, 40, 37)).astype(np.float32)
    window, overlap = (8, 16, 16), 0.5
    grid = WindowGrid.of(image.shape, window, overlap, "constant")
    seen = read_block(grid, lambda where: image[where], (0, 0, 0), image.shape)
    with torch.inference_mode():
        result = BlockPredictor(net, grid, 4)(seen)
        theirs = sliding_window_inference(
            torch.from_numpy(image)[None, None], window, 4, net, overlap=overlap, mode="constant"
        )
    expected = np.floor(theirs[0].numpy() * 255 + 0.5)
    assert np.abs(result - expected).max() <= 1


@pytest.mark.parametrize("kind", ["bump", "gaussian", "constant"])
def test_weights_are_symmetric_positive_and_highest_in_the_middle(kind):
    weights = WindowGrid.of((9, 9, 9), (5, 8, 7), 0.5, kind).weights()
    assert weights.dtype == np.float32
    assert (weights > 0).all()
    assert np.allclose(weights, weights[::-1, ::-1, ::-1])
    assert weights.argmax() in (0, np.ravel_multi_index((2, 3, 3), weights.shape))


def test_a_window_that_is_left_over_is_rounded_as_the_others_are():
    image = np.random.default_rng(1).random((4, 6, 18)).astype(np.float32)
    grid = WindowGrid.of(image.shape, (4, 6, 6), 0, "constant")
    seen = read_block(grid, lambda where: image[where], (0, 0, 0), image.shape)

    def rounding(windows):
        return network(windows) if len(windows) > 1 else network(windows).round(decimals=2)

    expected = BlockPredictor(rounding, grid, 3)(seen)
    assert np.array_equal(BlockPredictor(rounding, grid, 2)(seen), expected)
    assert not np.array_equal(BlockPredictor(rounding, grid, 1)(seen), expected)
