"""Resampling: any box is a box of the whole, to the bit, and a network sees voxels of its size."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
import zarr
from hypothesis import given
from recipes import run, run_refused, tiny_config, tiny_volume, write

from synpol.config import load_config
from synpol.images.image import open_image
from synpol.images.resampling import Resampling
from synpol.prediction.job import PredictJob

shapes = st.tuples(st.integers(1, 9), st.integers(1, 23), st.integers(1, 23))
ratios = st.sampled_from([1.0, 2.0, 0.5, 30 / 40, 4 / 3, 16 / 4.6, 4.6 / 16, 1.25, 3.0, 1 / 3])


def whole(resampling: Resampling, values: np.ndarray) -> np.ndarray:
    return resampling.apply(values, (0, 0, 0), resampling.shape)


@given(st.integers(0, 10**6), shapes, st.tuples(ratios, ratios, ratios), st.data())
def test_any_box_has_the_values_that_it_has_in_the_whole(seed, shape, ratio, data):
    values = np.random.default_rng(seed).random((2, *shape), np.float32)
    there = Resampling.of(shape, ratio)
    for way in (there, there.back):
        everything = whole(way, values)
        assert everything.shape == (2, *way.shape)
        begin = [data.draw(st.integers(0, n - 1)) for n in way.shape]
        end = [data.draw(st.integers(b + 1, n)) for b, n in zip(begin, way.shape, strict=True)]
        low, high = way.needed(begin, end)
        assert min(low) >= 0 and all(h <= n for h, n in zip(high, values.shape[1:], strict=True))
        old, new = (
            (slice(None), *(slice(b, e) for b, e in zip(*corners, strict=True)))
            for corners in ((low, high), (begin, end))
        )
        assert np.array_equal(way.apply(values[old], begin, end), everything[new])
        values = everything
    assert values.shape == (2, *shape)


@given(shapes, st.tuples(ratios, ratios, ratios))
def test_the_way_back_reads_no_further_than_its_block_and_what_the_network_sees_of_it(shape, ratio):
    there = Resampling.of(shape, ratio)
    for corner in np.ndindex(*shape):
        end = [c + 1 for c in corner]
        low, high = there.needed(*there.back.needed(corner, end))
        assert all(a <= c < b for a, c, b in zip(low, corner, high, strict=True))


@given(st.integers(0, 10**6), shapes, st.tuples(ratios, ratios, ratios), st.data())
def test_voxels_that_wanted_ones_are_made_of_are_all_found(seed, shape, ratio, data):
    way = Resampling.of(shape, ratio)
    begin = [data.draw(st.integers(0, n - 1)) for n in way.shape]
    rng = np.random.default_rng(seed)
    wanted = rng.random([n - b for n, b in zip(way.shape, begin, strict=True)]) < 0.1
    reached = way.reached(wanted, begin)
    low, high = way.needed(begin, way.shape)
    assert reached.shape == tuple(h - a for a, h in zip(low, high, strict=True))
    expected = np.zeros(reached.shape, bool)
    for place in np.argwhere(wanted):
        first, last = way.needed(place + begin, place + begin + 1)
        expected[tuple(slice(a - b, e - b) for a, e, b in zip(first, last, low, strict=True))] = 1
    assert np.array_equal(reached, expected)


def test_voxels_are_means_where_they_grow_and_interpolated_where_they_shrink():
    values = np.arange(5, dtype=np.float32)[None, None] ** 2
    assert whole(Resampling.of((1, 1, 5), (1, 1, 2)), values).tolist() == [[[0.5, 6.5, 16]]]
    assert whole(Resampling.of((1, 1, 2), (1, 1, 0.5)), values[..., :2]).tolist() == [
        [[0, 0.25, 0.75, 1]]
    ]
    uneven = whole(Resampling.of((1, 1, 3), (1, 1, 1.5)), values[..., :3])
    assert np.allclose(uneven, [[[(0 + 0.5) / 1.5, (0.5 + 4) / 1.5]]])
    assert Resampling.of((1, 1, 3), (1, 1, 1.5)).shape == (1, 1, 2)


def finer(values: np.ndarray, factors: tuple[int, int, int]) -> np.ndarray:
    for axis, factor in enumerate(factors):
        values = values.repeat(factor, axis)
    return values


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny volume of 30 x 16 x 16 nm and a network for it; noise with more detail at 8 nm."""
    folder = tmp_path_factory.mktemp("trained")
    tiny_volume(folder / "data")
    assert run("train", tiny_config(folder, train__precision="float32", train__iterations=30)) == 0
    raw = open_image(folder / "data" / "raw").array[:]
    noise = np.random.default_rng(5).integers(-9, 10, (8, 96, 96))
    fine = np.clip(finer(raw, (1, 2, 2)) + noise, 0, 255).astype(np.uint8)
    fine = fine[:7, :93, :91]
    write(folder, "fine", fine, voxel_size=(30, 8, 8), offset=(30, 40, 0))
    return folder


def predicted(folder, *changes, name="out"):
    config = tiny_config(folder, train__precision="float32", train__iterations=30)
    arguments = (f"predict.output={folder}/{name}", "--only", "predict", *changes)
    assert run("predict_blockwise", config, *arguments) == 0
    return open_image(folder / name / "polarity")


def test_a_network_predicts_finer_voxels_as_those_that_are_averaged_by_hand(trained):
    fine = open_image(trained / "fine").array[:, :92, :90].astype(np.float64)
    mean = fine.reshape(7, 46, 2, 45, 2).mean((2, 4))
    write(trained, "hand", (mean / 255).astype(np.float32))
    write(trained, "cut", fine.astype(np.uint8), voxel_size=(30, 8, 8))
    by_hand = predicted(
        trained, f"predict.raw={trained}/hand", "predict.intensity_range=[0,1]", name="hand_out"
    ).array[:]
    cut = (f"predict.raw={trained}/cut", "predict.resample=true")
    found = predicted(trained, *cut, name="cut_out")
    assert found.voxel_size == (30, 8, 8) and found.array.shape == (3, 7, 92, 90)
    expected = np.pad(by_hand.astype(float), [(0, 0), (0, 0), (1, 1), (1, 1)], mode="edge")
    for axis in (2, 3):  # by hand too: a quarter of the neighbour
        low, middle, high = (
            np.moveaxis(expected, axis, 0)[s] for s in (slice(0, -2), slice(1, -1), slice(2, None))
        )
        pairs = np.stack([0.25 * low + 0.75 * middle, 0.75 * middle + 0.25 * high], 1)
        expected = np.moveaxis(pairs.reshape(-1, *pairs.shape[2:]), 0, axis)
    assert by_hand.max() > 50
    assert np.abs(found.array[:] - expected).max() <= 1.5


def test_blocks_of_a_resampled_prediction_are_those_of_the_whole(trained):
    raw = (f"predict.raw={trained}/fine", "predict.resample=true")
    one = ("predict.block_shape=[7,93,91]", "predict.chunk_shape=[7,93,91]")
    whole = predicted(trained, *raw, *one)
    everything = whole.array[:].astype(int)
    assert whole.offset == (30, 40, 0) and everything.max() > 50
    parts = ("predict.block_shape=[3,17,29]", "predict.chunk_shape=[3,17,29]")
    assert np.abs(predicted(trained, *raw, *parts, name="a").array[:] - everything).max() <= 1
    roi = "predict.roi={offset: [60, 80, 56], shape: [90, 344, 312]}"
    part = predicted(trained, *raw, *parts, roi, name="b")
    assert part.offset == (60, 80, 56)
    assert np.abs(part.array[:] - everything[:, 1:4, 5:48, 7:46]).max() <= 1
    mask = np.zeros((2, 3, 4), np.uint8)
    mask[1, 1, 2] = 1
    write(trained, "mask", mask, voxel_size=(90, 248, 200), offset=(30, 40, 0))
    masked = predicted(trained, *raw, *parts, f"predict.mask={trained}/mask", name="c").array[:]
    inside = np.zeros(everything.shape[1:], bool)
    inside[3:6, 31:62, 50:75] = True
    assert np.abs(masked - everything * inside).max() <= 1 and not (masked * ~inside).any()


def test_coarser_voxels_are_resampled_too_and_that_is_told(trained, caplog):
    coarse = open_image(trained / "data" / "raw").array[:, ::2, ::2]
    write(trained, "coarse", coarse, voxel_size=(30, 32, 32))
    raw = (f"predict.raw={trained}/coarse", "predict.resample=true")
    found = predicted(trained, *raw, name="coarse_out")
    assert found.array.shape == (3, 8, 24, 24) and found.array[:].max() > 0
    assert "what is smaller than its voxels cannot be seen" in caplog.text


def test_an_image_of_a_wholly_different_scale_is_not_resampled(trained, capsys):
    write(trained, "huge", open_image(trained / "fine").array[:], voxel_size=(30, 8, 8000))
    config = tiny_config(trained, train__precision="float32", train__iterations=30)
    raw = (f"predict.raw={trained}/huge", "predict.resample=true")
    message = run_refused(capsys, "predict_blockwise", config, *raw)
    assert "(30, 8, 8000) nm" in message and "by factors of up to 16" in message


def test_resampling_changes_nothing_where_voxels_are_those_of_the_network(trained):
    before = predicted(trained, name="same")
    made = before.array.attrs["synpol_hash"], before.array[:]
    after = predicted(trained, "predict.resample=true", name="same")
    assert after.array.attrs["synpol_hash"] == made[0]
    assert np.array_equal(after.array[:], made[1])


def test_the_dry_run_counts_windows_of_the_network(trained):
    config = str(tiny_config(trained, train__precision="float32", train__iterations=30))
    raw = (f"predict.raw={trained}/fine", f"predict.output={trained}/dry")
    given = load_config([config, *raw, "predict.resample=true", "predict.overlap=0"])
    checkpoint = sorted((trained / "run" / "checkpoints").glob("0*.pt"))[-1]
    job = PredictJob.of(given, given.predict.raw, given.predict.output, checkpoint)
    assert job.windows.shape == (7, 47, 46)
    assert job.windows.count == 2 * 3 * 3
    assert "predict: 18 windows in 9 blocks" in job.border_cost()


def test_a_level_with_the_right_voxels_is_named(trained, capsys):
    write(trained, "pyramid", open_image(trained / "fine").array[:], voxel_size=(30, 8, 8))
    group = zarr.open_group(str(trained / "pyramid"), mode="r+")
    group.create_array("s1", data=group["s0"][:, ::2, ::2], chunks=(7, 16, 16))
    ome = dict(group.attrs["ome"])
    second = {
        "path": "s1",
        "coordinateTransformations": [
            {"type": "scale", "scale": [30.0, 16.0, 16.0]},
            {"type": "translation", "translation": [15.0, 8.0, 8.0]},
        ],
    }
    ome["multiscales"][0]["datasets"].append(second)
    group.attrs["ome"] = ome
    config = tiny_config(trained, train__precision="float32", train__iterations=30)
    message = run_refused(capsys, "predict_blockwise", config, f"predict.raw={trained}/pyramid")
    assert "voxels of (30, 8, 8) nm" in message and "of (30, 16, 16) nm" in message
    assert f"predict {trained}/pyramid/s1, which has such voxels" in message
    assert predicted(trained, f"predict.raw={trained}/pyramid/s1", name="level").array[:].any()
