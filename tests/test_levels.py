"""Coarser levels: voxels, metadata, and that blocks and interruptions leave no trace."""

import shutil
from collections import Counter

import hypothesis.strategies as st
import numpy as np
import pytest
import zarr
from funlib.persistence import open_ds
from hypothesis import given

from synpol.blockwise.driver import Driver
from synpol.blockwise.grid import BlockGrid
from synpol.errors import InputError
from synpol.images.claim import COMPLETE, HASH
from synpol.images.downsampling import SMALL, label_of_cells, level_factors, mean_of_cells
from synpol.images.groups import levels_of
from synpol.images.image import open_image
from synpol.images.writing import create_image
from synpol.scene import levels as level
from synpol.scene.levels import add_levels

shapes = st.tuples(st.integers(1, 7), st.integers(1, 7), st.integers(1, 7))
factors_of = st.tuples(*[st.integers(1, 2)] * 3)


def cells(array, factors):
    """Where each coarser voxel is, and the voxels that it covers."""
    for place in np.ndindex(*(-(-n // f) for n, f in zip(array.shape, factors, strict=True))):
        where = tuple(slice(p * f, p * f + f) for p, f in zip(place, factors, strict=True))
        yield place, array[where].ravel()


@given(shapes, factors_of, st.integers(0, 2**32 - 1), st.sampled_from(["uint8", "uint16", "f4"]))
def test_a_grey_voxel_is_the_mean_of_those_that_it_covers(shape, factors, seed, dtype):
    array = (np.random.default_rng(seed).random(shape) * 250).astype(dtype)
    coarse = mean_of_cells(array, factors)
    assert coarse.dtype == array.dtype
    for place, covered in cells(array, factors):
        mean = covered.mean(dtype=np.float64)
        assert coarse[place] == (pytest.approx(mean, rel=1e-6) if dtype == "f4" else round(mean))


@given(shapes, factors_of, st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_a_label_is_the_most_frequent_below_it_and_background_only_over_background(
    shape, factors, seed, empty
):
    rng = np.random.default_rng(seed)
    array = rng.integers(1, 4, shape).astype(np.uint64) + np.uint64(2**63)
    array[rng.random(shape) < empty] = 0
    coarse = label_of_cells(array, factors)
    assert coarse.dtype == array.dtype
    for place, covered in cells(array, factors):
        votes = Counter(covered[covered > 0].tolist())
        assert coarse[place] == min(votes, key=lambda v: (-votes[v], v), default=0)


@given(st.tuples(*[st.integers(1, 5000)] * 3), st.tuples(*[st.integers(1, 100)] * 3))
def test_levels_end_small_and_their_voxels_become_cubes(shape, voxel_size):
    total = np.ones(3, int)
    for factors in level_factors(shape, voxel_size):
        assert max(factors) == 2
        assert (-(-np.array(shape) // total)).max() > SMALL
        total *= factors
    assert (-(-np.array(shape) // total)).max() <= SMALL
    sizes, left = total * voxel_size, -(-np.array(shape) // total)
    for axis in (total > 1).nonzero()[0]:  # halved while its voxels were the short ones
        assert sizes[axis] < 2 * 2**0.5 * min(sizes[left > 1], default=np.inf)


def volume(folder, chunk, labels, seed=0, shape=(20, 300, 140), **more):
    rng = np.random.default_rng(seed)
    content = rng.integers(0, 200, shape if labels else (3, *shape))
    content[rng.random(content.shape) < 0.7] = 0
    image = create_image(
        folder,
        "instances" if labels else "polarity",
        shape=content.shape,
        dtype=np.uint64 if labels else np.uint8,
        voxel_size=(40, 16, 16),
        offset=(80, 160, 320),
        unit="nm",
        chunk_shape=chunk if labels else (1, *chunk),
        attributes={HASH: str(seed), COMPLETE: True},
        **more,
    )
    image.array[:] = content
    return open_image(image.path, mode="r+"), content.astype(image.array.dtype)


def made(work, image, labels, **more):
    with Driver(work, "levels") as driver:
        return add_levels(driver, image, labels, **more)


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("chunk", [(20, 64, 64), (7, 50, 33), (20, 300, 140)])
def test_blockwise_levels_are_those_of_the_whole_volume(tmp_path, labels, chunk):
    image, expected = volume(tmp_path / "v.zarr", chunk, labels)
    factors = level_factors(image.shape_vx, image.voxel_size)
    assert made(tmp_path / "work", image, labels) == len(factors) == 2
    assert levels_of(image) == ["s1", "s2"]
    size = np.array(image.voxel_size)
    for name, factor in zip(levels_of(image), factors, strict=True):
        expected = (label_of_cells if labels else mean_of_cells)(expected, factor)
        size = size * factor
        found = open_image(f"{image.path[:-3]}/{name}")
        assert np.array_equal(found.array[:], expected)
        assert tuple(found.voxel_size) == tuple(size)
        assert found.roi.begin == image.roi.begin
        other = open_ds(f"{image.path[:-3]}/{name}")
        assert (other.voxel_size, other.roi.begin) == (found.voxel_size, found.roi.begin)
        listed = zarr.open_group(image.path[:-3])  # OME says where the centre of a voxel is
        listed = listed.attrs["ome"]["multiscales"][0]["datasets"][int(name[1])]
        scale, translation = (t[t["type"]] for t in listed["coordinateTransformations"])
        assert scale[-3:] == size.tolist()
        assert translation[-3:] == (np.array(image.offset) + size / 2).tolist()
    assert open_image(image.path[:-3]).path == image.path
    assert not list((tmp_path / "work").glob("level-*"))


def test_levels_of_other_labels_are_made_anew_and_others_stay(tmp_path, monkeypatch):
    image, _ = volume(tmp_path / "v.zarr", (20, 64, 64), True)
    made(tmp_path / "work", image, True)
    monkeypatch.setattr(level, "label_of_cells", None)  # a call would fail
    assert made(tmp_path / "work", image, True) == 2
    monkeypatch.undo()
    image.array.update_attributes({HASH: "another"})
    image.array[:] = 7
    assert made(tmp_path / "work", open_image(image.path), True) == 2
    assert (open_image(f"{image.path[:-3]}/s2").array[:] == 7).all()
    rewritten, _ = volume(tmp_path / "v.zarr", (20, 64, 64), True, seed=3, overwrite=True)
    assert levels_of(rewritten) == []


def test_an_interrupted_job_goes_on_and_ends_the_same(tmp_path, monkeypatch):
    image, _ = volume(tmp_path / "a.zarr", (20, 64, 64), True)
    made(tmp_path / "work", image, True)
    expected = [open_image(f"{image.path[:-3]}/{name}").array[:] for name in ("s1", "s2")]
    image, _ = volume(tmp_path / "b.zarr", (20, 64, 64), True)
    calls = []

    def interrupted(*given):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return label_of_cells(*given)

    monkeypatch.setattr(level, "label_of_cells", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path / "work", image, True)
    assert levels_of(image) == []
    assert made(tmp_path / "work", image, True) == 2
    blocks = [
        BlockGrid.of(open_image(f"{image.path[:-3]}/{n}").shape_vx, (120, 128, 128))
        for n in ("s1", "s2")
    ]
    assert len(calls) == sum(int(np.prod(b.grid)) for b in blocks) + 1  # one was tried twice
    for name, array in zip(("s1", "s2"), expected, strict=True):
        assert np.array_equal(open_image(f"{image.path[:-3]}/{name}").array[:], array)


def test_workers_make_levels_too(tmp_path, monkeypatch):
    monkeypatch.setattr("synpol.blockwise.driver.DRIVER_VOXELS", 0)
    monkeypatch.setattr("synpol.blockwise.driver.DRIVER_VOXELS_WITH_WORKERS", 0)
    image, content = volume(tmp_path / "v.zarr", (20, 64, 64), False)
    with Driver(tmp_path / "work", "levels", 2) as driver:
        add_levels(driver, image, False)
    assert np.array_equal(
        open_image(f"{image.path[:-3]}/s1").array[:], mean_of_cells(content, (1, 2, 2))
    )


def foreign(folder, unit, scale, translation, whole=None):
    """An image as others write it: no attributes on the array, two images in the group."""
    content = np.random.default_rng(0).integers(0, 255, (20, 300, 140), dtype=np.uint8)
    group = zarr.open_group(folder, mode="w", zarr_format=3)
    group.create_array("0", data=content, chunks=(20, 64, 64))
    transforms = [{"type": "scale", "scale": scale}]
    if translation:
        transforms.append({"type": "translation", "translation": translation})
    about = {
        "axes": [{"name": a, "type": "space", "unit": unit} for a in "zyx"],
        "datasets": [{"path": "0", "coordinateTransformations": transforms}],
    }
    if whole:
        about["coordinateTransformations"] = [{"type": "scale", "scale": whole}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [about, {"name": "another"}]}
    return group, content


@pytest.mark.parametrize(
    ("unit", "scale", "translation", "whole"),
    [
        ("micrometer", [0.04, 0.016, 0.016], None, None),
        ("nanometer", [40, 15, 15], [0, 0, 0], None),
        ("nanometer", [1, 1, 1], [10, 20, 30], [40, 16, 16]),
    ],
)
def test_levels_of_images_of_others_are_told_in_their_own_terms(
    tmp_path, unit, scale, translation, whole
):
    group, content = foreign(tmp_path / "v", unit, scale, translation, whole)
    before = group.attrs["ome"]["multiscales"]
    assert made(tmp_path / "work", open_image(tmp_path / "v"), False) == 2
    after = zarr.open_group(tmp_path / "v", mode="r").attrs["ome"]["multiscales"]
    assert after[1] == before[1]
    assert {k: v for k, v in after[0].items() if k != "datasets"} == {
        k: v for k, v in before[0].items() if k != "datasets"
    }
    assert after[0]["datasets"][0] == before[0]["datasets"][0]
    for listed, factors in zip(after[0]["datasets"][1:], [(1, 2, 2), (2, 4, 4)], strict=True):
        found = {t["type"]: t[t["type"]] for t in listed["coordinateTransformations"]}
        assert np.allclose(found["scale"], np.multiply(scale, factors))
        # the middle of the first cell, from that of the first voxel
        step = (np.array(factors) - 1) / 2 * scale
        assert np.allclose(found["translation"], np.add(translation or [0, 0, 0], step))
    assert np.array_equal(
        open_image(tmp_path / "v" / "s1").array[:], mean_of_cells(content, (1, 2, 2))
    )


def test_levels_made_again_hold_nothing_of_what_was_before(tmp_path):
    group, _ = foreign(tmp_path / "v", "nanometer", [40, 16, 16], None)
    made(tmp_path / "work", open_image(tmp_path / "v"), False)
    group["0"][:] = 0
    made(tmp_path / "work", open_image(tmp_path / "v"), False, fresh=True)
    assert [open_image(tmp_path / "v" / name).array[:].max() for name in ("s1", "s2")] == [0, 0]


def test_an_image_of_which_a_kill_left_coarser_levels_alone_is_made_anew(tmp_path):
    for lost in (["s0"], ["s0", "zarr.json"], ["zarr.json", "s0/zarr.json"]):
        image, _ = volume(tmp_path / "v.zarr", (20, 64, 64), True, overwrite=True)
        made(tmp_path / "work", image, True)
        group = tmp_path / "v.zarr" / "instances"
        for name in lost:
            shutil.rmtree(group / name) if (group / name).is_dir() else (group / name).unlink()
        found, content = volume(tmp_path / "v.zarr", (20, 64, 64), True, seed=1)
        assert np.array_equal(found.array[:], content)
        assert levels_of(found) == []
        assert not (group / "s1").exists()


def test_levels_of_others_stay_and_what_cannot_have_levels_is_named(tmp_path):
    image, _ = volume(tmp_path / "v.zarr", (20, 64, 64), True)
    group = zarr.open_group(image.path[:-3], mode="r+")
    theirs = group.create_array("s1", shape=(1, 1, 1), dtype="u8")
    with pytest.raises(InputError, match=r"s1 exists and was not written by synpol"):
        made(tmp_path / "work", image, True)
    ome = dict(group.attrs["ome"])
    again = {**ome["multiscales"][0]["datasets"][0], "path": "s1"}
    ome["multiscales"][0]["datasets"].append(again)
    group.attrs["ome"] = ome
    assert made(tmp_path / "work", image, True) == 1
    assert theirs.shape == (1, 1, 1)
    assert made(tmp_path / "work", image, True, fresh=True) == 1
    assert levels_of(image) == ["s1"]
    foreign(tmp_path / "v", "nanometer", [40, 16, 16], None)
    zarr.consolidate_metadata(tmp_path / "v")
    with pytest.raises(InputError, match="has consolidated metadata"):
        made(tmp_path / "work", open_image(tmp_path / "v"), False)
    bare = zarr.create_array(tmp_path / "bare", shape=(300, 300, 300), dtype="u1")
    bare.attrs["voxel_size"] = [8, 8, 8]
    with pytest.raises(InputError, match="is not the full resolution of an OME"):
        made(tmp_path / "work", open_image(tmp_path / "bare"), False)
