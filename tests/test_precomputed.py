"""Precomputed images and segmentations, wherever an image is named."""

import bz2
import gzip
import json
import lzma
import shutil
import zlib

import imagecodecs
import numpy as np
import pandas as pd
import pytest
from precomputed import change_info, chunks_of, pack, write_precomputed
from recipes import run, run_refused, tiny_config, tiny_volume, write

from synpol.config import ImageSource
from synpol.errors import InputError
from synpol.images.image import check_readable, open_image
from synpol.images.kinds import SCHEME
from synpol.images.packed import ENDINGS
from synpol.training import volumes

SHAPE = (13, 16, 17)  # no multiple of the chunks
RAW = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
IDS = np.random.default_rng(1).integers(2**60, 2**60 + 9, SHAPE, dtype=np.uint64)
PACKERS = {
    ".gz": gzip.compress,
    ".br": imagecodecs.brotli_encode,
    ".zstd": imagecodecs.zstd_encode,
    ".zst": imagecodecs.zstd_encode,
    ".xz": lzma.compress,
    ".lzma": lambda content: lzma.compress(content, format=lzma.FORMAT_ALONE),
    ".bz2": bz2.compress,
}


def source(path, **keys):
    return ImageSource(path=f"{SCHEME}{path}", **keys)


def opened(path, **keys):
    return open_image(source(path, **keys) if keys else f"{SCHEME}{path}", channels=0)


@pytest.fixture
def volume(tmp_path):
    return tmp_path / "volume"


@pytest.mark.parametrize("encoding", ["raw", "png", "compressed_segmentation", "sharded"])
def test_values_size_and_place_are_those_that_were_written(encoding, volume):
    values = IDS if encoding == "compressed_segmentation" else RAW
    sharding = {
        "@type": "neuroglancer_uint64_sharded_v1",
        "preshift_bits": 1,
        "minishard_bits": 1,
        "shard_bits": 1,
        "hash": "identity",
    }
    more = {"encoding": "raw", "sharding": sharding} if encoding == "sharded" else {}
    write_precomputed(volume, values, (40, 8, 4), (3, -2, 5), **{"encoding": encoding, **more})
    image = opened(volume)
    assert np.array_equal(image.array[:], values)
    assert np.array_equal(image.array[4:9, 5, -3:], values[4:9, 5, -3:])
    assert (image.array.dtype, image.shape_vx) == (values.dtype, SHAPE)
    assert image.voxel_size_nm == (40, 8, 4) and image.offset_nm == (120, -16, 20)


@pytest.mark.parametrize("size", [4.6, 5.24, 3.72134, 1 / 3])
def test_any_voxel_size_opens_in_the_unit_in_which_it_is_whole(size, volume):
    write_precomputed(volume, RAW, (40, size, size), (1, 2, 3))
    image = opened(volume)
    assert image.voxel_size_nm == pytest.approx((40, size, size), abs=1e-6)
    assert image.offset_nm == pytest.approx((40, 2 * size, 3 * size), abs=2e-6)


@pytest.mark.parametrize("encoding", ["raw", "compressed_segmentation"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_chunks_that_lie_compressed_under_another_name_are_read(ending, encoding, volume):
    values = IDS if encoding == "compressed_segmentation" else RAW
    write_precomputed(volume, values, begin=(3, -2, 5), encoding=encoding)
    plain = chunks_of(volume)[::3]
    kept = {file: file.read_bytes() for file in plain}
    pack(volume, ending, PACKERS[ending])
    for file, content in kept.items():  # some chunks as they were
        file.write_bytes(content)
        file.with_name(f"{file.name}{ending}").unlink()
    image = opened(volume)
    check_readable(image)
    assert np.array_equal(image.array[2:11, 3:16, 1:9], values[2:11, 3:16, 1:9])
    assert np.array_equal(image.array[:], values)


@pytest.mark.parametrize("how", [gzip.compress, imagecodecs.zstd_encode])
@pytest.mark.parametrize("encoding", ["raw", "compressed_segmentation"])
def test_chunks_that_are_compressed_under_their_own_name_are_read(encoding, how, volume):
    values = IDS if encoding == "compressed_segmentation" else RAW
    write_precomputed(volume, values, encoding=encoding)
    pack(volume, "", how)
    assert np.array_equal(opened(volume).array[:], values)


def test_a_compressed_chunk_that_is_damaged_is_named(volume):
    write_precomputed(volume, RAW)
    pack(volume, ".gz", gzip.compress)
    damaged = next(volume.rglob("0-7_0-6_0-5.gz"))
    damaged.write_bytes(damaged.read_bytes()[:9])
    with pytest.raises(InputError, match=r"0-7_0-6_0-5\.gz cannot be unpacked"):
        check_readable(opened(volume))


@pytest.mark.parametrize("packed", [False, True])
def test_a_missing_chunk_is_named_unless_it_may_be_missing(packed, volume):
    values = RAW.copy()
    write_precomputed(volume, values)
    if packed:
        pack(volume, ".gz", gzip.compress)
    next(p for p in volume.rglob("7-14_6-12_5-10*")).unlink()
    image = opened(volume)
    assert np.array_equal(image.array[:5], values[:5])
    with pytest.raises(InputError, match=r"chunk .*/7-14_6-12_5-10 is missing.*fill_missing: true"):
        image.array[:]
    values[5:10, 6:12, 7:14] = 0
    assert np.array_equal(opened(volume, fill_missing=True).array[:], values)


def test_a_chunk_that_is_missing_in_a_shard_is_an_error_too(volume):
    values = IDS.copy()
    values[5:10, 6:12, 7:14] = 0
    sharding = {
        "@type": "neuroglancer_uint64_sharded_v1",
        "preshift_bits": 1,
        "minishard_bits": 1,
        "shard_bits": 1,
        "hash": "identity",
    }
    write_precomputed(volume, values, empty=False, sharding=sharding)
    with pytest.raises(InputError, match=r"volume: the chunk .*7-14_6-12_5-10 is missing"):
        opened(volume).array[:]
    assert np.array_equal(opened(volume, fill_missing=True).array[:], values)


def test_of_several_scales_the_one_that_fits_is_read(volume, tmp_path):
    write_precomputed(volume, RAW[:4, :4, :4], (40, 32, 16))
    write_precomputed(volume, RAW, (40, 8, 4))
    write_precomputed(volume, RAW[:6, :8, :8], (40, 16, 8))
    assert opened(volume).shape_vx == SHAPE
    assert opened(volume, voxel_size=(40, 16, 8)).shape_vx == (6, 8, 8)
    um = opened(volume, voxel_size=(0.04, 0.032, 0.016), unit="um")
    assert um.shape_vx == (4, 4, 4) and um.voxel_size_nm == (40, 32, 16)
    with pytest.raises(InputError, match=r"scales with voxels of .*\[40.0, 16.0, 8.0\].*says"):
        opened(volume, voxel_size=(40, 9, 8))
    for size, expected in (
        ((40, 16, 8), (6, 8, 8)),
        ((40, 8, 4), SHAPE),
        ((20, 32, 4), (4, 4, 4)),  # the finest of which its voxels are a part
        ((7, 7, 7), SHAPE),
    ):
        write(tmp_path, f"beside{size[0]}{size[1]}", RAW, voxel_size=size)
        beside = open_image(tmp_path / f"beside{size[0]}{size[1]}")
        found = open_image(f"{SCHEME}{volume}", beside=beside)
        assert found.shape_vx == expected
        again = open_image(found.source)
        assert (again.voxel_size_nm, again.shape_vx) == (found.voxel_size_nm, expected)


def test_a_channel_is_chosen_or_all_are_read(volume):
    values = np.stack([RAW, 255 - RAW, RAW // 2])
    write_precomputed(volume, values)
    assert np.array_equal(open_image(f"{SCHEME}{volume}").array[:], values)
    assert np.array_equal(open_image(f"{SCHEME}{volume}", channels=3).array[1], values[1])
    assert np.array_equal(opened(volume, channel=1).array[:], values[1])
    pack(volume, ".gz", gzip.compress)
    assert np.array_equal(opened(volume, channel=2).array[:], values[2])
    with pytest.raises(InputError, match=r"3 channels; choose one: .*channel: 0"):
        opened(volume)
    with pytest.raises(InputError, match=r"chooses 3; choose one of 0\.\.2"):
        opened(volume, channel=3)


def test_the_scheme_may_be_left_out(volume, tmp_path, monkeypatch):
    write_precomputed(volume, RAW)
    assert np.array_equal(open_image(volume, channels=0).array[:], RAW)
    monkeypatch.chdir(tmp_path)
    assert np.array_equal(open_image("volume", channels=0).array[:], RAW)
    assert np.array_equal(open_image(f"{SCHEME}file://{volume}", channels=0).array[:], RAW)
    with pytest.raises(InputError, match="read only"):
        open_image(volume, mode="r+")


def test_voxels_of_one_nm_are_believed_only_where_the_config_says_so(volume):
    write_precomputed(volume, RAW, (1, 1, 1), (2, 3, 4))
    with pytest.raises(InputError, match=r"voxels of 1 x 1 x 1 nm .*voxel_size"):
        opened(volume)
    assert opened(volume, unit="nm").offset_nm == (2, 3, 4)
    image = opened(volume, voxel_size=(40, 8, 4))
    assert image.voxel_size_nm == (40, 8, 4) and image.offset_nm == (80, 24, 16)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"time": 0}, "no times; leave `time` out"),
        ({"axes": "xyzc"}, "the key `axes` says"),
        ({"voxel_size": (40, 4, 4)}, "the key `voxel_size` says"),
        ({"offset": (0, 0, 4)}, "the key `offset` says"),
    ],
    ids=lambda k: next(iter(k)) if isinstance(k, dict) else "",
)
def test_keys_that_do_not_fit_are_refused(keys, message, volume):
    write_precomputed(volume, RAW, begin=(0, 0, 2))
    with pytest.raises(InputError, match=message) as caught:
        opened(volume, **keys)
    assert "volume" in str(caught.value)


@pytest.mark.parametrize("value", [None, "x", -1, [], [1, 2], ["a", "b", "c"], {}, 1e300])
@pytest.mark.parametrize(
    "key",
    ["scales", "data_type", "num_channels", "resolution", "size", "chunk_sizes", "encoding"],
)
def test_damaged_metadata_are_refused_by_their_file(key, value, volume):
    write_precomputed(volume, RAW)
    change_info(volume, **{key: value})
    with pytest.raises(InputError, match="volume"):
        check_readable(opened(volume))


@pytest.mark.parametrize("content", ["", "[]", "{", '{"@type": "neuroglancer_annotations_v1"}'])
def test_a_folder_with_another_info_is_no_volume(content, volume):
    volume.mkdir()
    with pytest.raises(InputError, match=r"cannot be opened as a precomputed .*volume/info"):
        opened(volume)
    (volume / "info").write_text(content)
    with pytest.raises(InputError, match="volume/info"):
        opened(volume)


# ---------------------------------------------------------------- the commands


@pytest.mark.parametrize("num_workers", [0, 1])
def test_training_reads_precomputed_in_processes_that_were_forked(
    num_workers, tmp_path, monkeypatch
):
    tiny_volume(tmp_path / "data")
    raw, truth = (open_image(tmp_path / "data" / n).array[:] for n in ("raw", "truth"))
    losses = []
    for format in ("zarr", "precomputed"):
        if format == "precomputed":
            shutil.rmtree(tmp_path / "data")
            for name, values in (("raw", raw), ("truth", truth)):
                place = write_precomputed(tmp_path / "data" / name, values, (30, 16, 16))
                pack(place, ".gz", gzip.compress)
            monkeypatch.setattr(volumes, "HELD", 0)  # the first was held in memory
        config = tiny_config(
            tmp_path, train__num_workers=num_workers, run_dir=f"{tmp_path}/{format}"
        )
        assert run("train", config) == 0
        losses.append(pd.read_csv(tmp_path / format / "log.csv").loss.tolist())
    assert losses[0] == losses[1]


def test_prediction_of_precomputed_is_that_of_zarr(tmp_path):
    tiny_volume(tmp_path / "data")
    assert run("train", tiny_config(tmp_path)) == 0
    raw = open_image(tmp_path / "data" / "raw").array[:]
    mask = (np.indices(raw.shape).sum(0) % 40 > 9).astype(np.uint8)
    write(tmp_path, "mask", mask)
    pack(write_precomputed(tmp_path / "raw", raw, (30, 16, 16)), ".gz", zlib.compress)
    write_precomputed(tmp_path / "mask_p", mask, (30, 16, 16))
    found = []
    for number, (image, where) in enumerate(
        (
            (f"{tmp_path}/data/raw", f"{tmp_path}/mask"),
            (f"{SCHEME}{tmp_path}/raw", f"{SCHEME}{tmp_path}/mask_p"),
        )
    ):
        config = tiny_config(
            tmp_path,
            predict__raw=image,
            predict__mask=where,
            predict__output=f"{tmp_path}/{number}",
            evaluate={},
        )
        assert run("predict_blockwise", config) == 0
        found.append(open_image(tmp_path / str(number) / "polarity").array[:])
    assert found[0].any() and np.array_equal(*found)


def test_a_segmentation_that_covers_a_part_tells_the_share(tmp_path, capsys, caplog):
    volume = np.zeros((3, 8, 40, 40), np.uint8)
    for z, y, x in [(1, 4, 4), (2, 14, 20), (3, 30, 8)]:
        volume[0, z : z + 3, y : y + 4, x : x + 4] = 200
        volume[1, z : z + 3, y : y + 4, x + 4 : x + 8] = 250
        volume[2, z : z + 3, y : y + 4, x : x + 8] = 255
    write(tmp_path / "result", "polarity", volume, offset=(0, 160, 160))
    neurons = np.full((10, 30, 20), 2**40, np.uint64)
    neurons[:, :, 9:] = 7
    place = write_precomputed(tmp_path / "neurons", neurons, (30, 16, 32), (-1, 0, 0))
    config = tiny_config(tmp_path, connect={"segmentation": str(place)})
    assert run("predict_blockwise", config, "--only", "decode") == 0
    assert run("connect", config) == 0
    assert "covers 37.5 % of" in caplog.text
    partners = pd.read_parquet(tmp_path / "result" / "partners.parquet")
    assert partners.pre_id.tolist() == [2**40, 7, 0] and partners.post_id.tolist() == [7, 7, 0]
    write_precomputed(tmp_path / "far", neurons, (30, 16, 32), (50, 0, 0))
    message = run_refused(capsys, "connect", config, f"connect.segmentation={tmp_path}/far")
    assert "far does not cover" in message


def test_the_truth_may_be_precomputed_with_several_scales(tmp_path):
    tiny_volume(tmp_path / "data")
    truth = open_image(tmp_path / "data" / "truth").array[:]
    sides = np.stack([truth % 2 == 1, (truth > 0) & (truth % 2 == 0), truth > 0]) * 255
    write(tmp_path / "result", "polarity", sides.astype(np.uint8))
    place = write_precomputed(tmp_path / "truth", np.repeat(truth, 2, axis=2), (30, 16, 8))
    write_precomputed(place, truth, (30, 16, 16))
    config = tiny_config(tmp_path, evaluate={"truth": str(place)})
    assert run("predict_blockwise", config, "--only", "decode") == 0
    assert run("evaluate", config) == 0
    scores = json.loads((tmp_path / "result" / "scores.json").read_text())
    assert scores["iou"]["0.5"]["polarity_correct"]["f1"] == 1


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_chunk_that_is_met_missing_in_a_block_ends_the_command(num_workers, tmp_path, capsys):
    write(tmp_path / "result", "polarity", np.full((3, 8, 40, 40), 255, np.uint8))
    config = tiny_config(tmp_path, workers={"num_workers": num_workers})
    assert run("predict_blockwise", config, "--only", "decode") == 0
    place = write_precomputed(tmp_path / "n", np.ones((8, 40, 40), np.uint64), (30, 16, 16))
    next(place.rglob("7-14_6-12_5-8")).unlink()
    message = run_refused(capsys, "connect", config, f"connect.segmentation={place}")
    assert "7-14_6-12_5-8 is missing" in message and "fill_missing: true" in message
