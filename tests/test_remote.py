"""Images at URLs are read as local ones, or refused with a way on."""

import gzip
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import zarr
from http_files import http_files
from precomputed import pack, write_precomputed
from recipes import run, run_refused, tiny_config, tiny_volume, write

from synpol.blockwise import sources
from synpol.config import ImageSource
from synpol.errors import InputError
from synpol.images.image import check_readable, open_image
from synpol.images.kinds import SCHEME
from synpol.images.stores import fault_of
from synpol.training import volumes

RAW = np.random.default_rng(0).integers(0, 256, (13, 16, 17), dtype=np.uint8)


@pytest.fixture
def served(tmp_path):
    """A folder, its URL, and what the server is asked for."""
    folder = tmp_path / "served"
    folder.mkdir()
    with http_files(folder) as (url, asked):
        yield folder, url, asked


@pytest.mark.parametrize("kind", ["zarr", "zarr2", "precomputed", "packed", "bare precomputed"])
def test_images_at_a_url_are_those_that_were_written(kind, served):
    folder, url, _ = served
    scheme = ""
    if kind == "zarr":
        write(folder, "raw", RAW, voxel_size=(40, 8, 4))
    elif kind == "zarr2":
        array = zarr.create_array(folder / "raw", data=RAW, chunks=(5, 6, 7), zarr_format=2)
        array.attrs["voxel_size"] = [40, 8, 4]
    else:
        write_precomputed(folder / "raw", RAW)
        scheme = "" if kind.startswith("bare") else SCHEME
        if kind == "packed":
            pack(folder / "raw", ".gz", gzip.compress)
    image = open_image(f"{scheme}{url}/raw", channels=0)
    check_readable(image)
    assert np.array_equal(image.array[:], RAW)
    assert np.array_equal(image.array[3:9, 5, 2:], RAW[3:9, 5, 2:])
    assert image.voxel_size_nm == (40, 8, 4) and image.offset_nm == (0, 0, 0)


@pytest.mark.parametrize("scheme", ["", SCHEME])
@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("none", "there is no .*none"),
        ("secret/raw", r"secret/raw.* may not be read .*everybody may read"),
        ("login/raw", r"login/raw.* may not be read"),
    ],
)
def test_what_a_server_does_not_give_is_named(scheme, place, message, served):
    with pytest.raises(InputError, match=message):
        open_image(f"{scheme}{served[1]}/{place}")


@pytest.mark.parametrize("scheme", ["", SCHEME])
def test_a_server_that_does_not_answer_is_named(scheme):
    with pytest.raises(InputError, match=r"127.0.0.1:9/raw.* does not answer.*check the address"):
        open_image(f"{scheme}http://127.0.0.1:9/raw")


def test_a_missing_chunk_at_a_url_is_named(served):
    folder, url, _ = served
    write_precomputed(folder / "raw", RAW)
    next(folder.rglob("7-14_6-12_5-10")).unlink()
    with pytest.raises(InputError, match="7-14_6-12_5-10 is missing"):
        open_image(f"{SCHEME}{url}/raw").array[:]


@pytest.mark.parametrize(
    ("path", "said", "message"),
    [
        ("s3://b/x", "Unable to locate credentials", "anonymous: true.*AWS_PROFILE"),
        (
            "gs://b/x",
            "PERMISSION_DENIED: x [HTTP code 403]",
            r"read \(PERMISSION_DENIED: x\).*GOOG",
        ),
        ("gs://b/x", "Please install gcsfs to access", "pip install gcsfs.*anonymous: true"),
        ("s3://b/x", "Install s3fs to access S3", "pip install s3fs"),
    ],
)
def test_faults_of_clouds_say_how_to_go_on(path, said, message):
    assert re.search(message, fault_of(path, said, False))
    if "anonymous" in message and "pip" not in message:
        assert "leave `anonymous` out" in fault_of(path, said, True)


def test_unknown_urls_are_refused():
    with pytest.raises(InputError, match=r"ftp://a/b: URLs of this kind .*https://"):
        open_image(f"{SCHEME}ftp://a/b")


@pytest.mark.parametrize("scheme", ["", pytest.param(SCHEME, marks=pytest.mark.slow)])
def test_training_reads_at_urls_in_processes_that_were_forked(
    scheme, served, tmp_path, monkeypatch
):
    folder, url, _ = served
    tiny_volume(tmp_path / "data")
    config = tiny_config(tmp_path, train__num_workers=1)
    assert run("train", config) == 0
    expected = pd.read_csv(tmp_path / "run" / "log.csv").loss.tolist()
    for name in ("raw", "truth"):
        values = open_image(tmp_path / "data" / name).array[:]
        if scheme:
            write_precomputed(folder / name, values, (30, 16, 16))
        else:
            write(folder, name, values)
    monkeypatch.setattr(volumes, "HELD", 0)  # the first was held in memory
    data = {"raw": f"{scheme}{url}/raw", "truth": f"{scheme}{url}/truth", "labels": "polarity"}
    config = tiny_config(
        tmp_path, run_dir=f"{tmp_path}/again", train__num_workers=1, data={"train": [data]}
    )
    assert run("train", config) == 0
    assert pd.read_csv(tmp_path / "again" / "log.csv").loss.tolist() == expected


@pytest.mark.parametrize("kind", ["zarr", "precomputed", "sharded"])
def test_an_image_rewritten_at_its_url_is_noticed_without_reading_it(kind, served, monkeypatch):
    folder, url, asked = served
    monkeypatch.setattr(sources, "REMOTE_SAMPLES", 8)
    sharding = {
        "@type": "neuroglancer_uint64_sharded_v1",
        "preshift_bits": 1,
        "minishard_bits": 1,
        "shard_bits": 4,
        "hash": "identity",
    }

    def written(values):
        if kind == "zarr":
            array = zarr.create_array(folder / "raw", data=values, chunks=(5, 6, 7), overwrite=True)
            array.attrs["voxel_size"] = [40, 8, 4]
        else:
            more = {"sharding": sharding} if kind == "sharded" else {}
            shutil.rmtree(folder / "raw", ignore_errors=True)
            write_precomputed(folder / "raw", values, **more)
        return open_image(f"{'' if kind == 'zarr' else SCHEME}{url}/raw")

    image = written(RAW)
    asked.clear()
    first = sources.stamp_of(image)
    assert first is not None and first == sources.stamp_of(image)
    assert len(asked) <= 2 * 11 and all(request.startswith("HEAD") for request in asked)
    assert sum(bool(re.search(r"shard|/c/|\d-\d", request)) for request in asked) >= 8
    assert sources.stamp_of(written(255 - RAW)) != first


def test_prediction_is_made_again_of_an_image_rewritten_at_its_url(served, tmp_path, caplog):
    folder, url, _ = served
    tiny_volume(tmp_path / "data")
    assert run("train", tiny_config(tmp_path)) == 0
    raw = open_image(tmp_path / "data" / "raw").array[:]
    config = tiny_config(tmp_path, predict__raw=f"{SCHEME}{url}/raw", evaluate={})
    found = []
    for values in (raw, raw, 255 - raw):
        caplog.clear()
        shutil.rmtree(folder / "raw", ignore_errors=True)
        write_precomputed(folder / "raw", values, (30, 16, 16))
        assert run("predict_blockwise", config) == 0
        found.append(
            ("written anew" in caplog.text, open_image(tmp_path / "result/polarity").array[:])
        )
    assert [told for told, _ in found] == [False, False, True]
    assert np.array_equal(found[0][1], found[1][1]) and not np.array_equal(found[1][1], found[2][1])


def test_a_command_refuses_what_it_may_not_read(served, tmp_path, capsys):
    tiny_volume(tmp_path / "data")
    message = run_refused(
        capsys,
        "train",
        tiny_config(tmp_path),
        f"data.train=[{{raw: {served[1]}/secret/a, truth: b, labels: polarity}}]",
    )
    assert "may not be read" in message


def test_anonymous_changes_no_hash(tmp_path):
    from synpol.images.identity import identity_of

    write_precomputed(tmp_path / "a", RAW)
    path = f"{SCHEME}{tmp_path}/a"
    plain = identity_of(open_image(path))
    assert identity_of(open_image(ImageSource(path=path, anonymous=True))) == plain
    mapping = identity_of(open_image(ImageSource(path=path)))
    assert mapping == plain | {"read_as": {}}
