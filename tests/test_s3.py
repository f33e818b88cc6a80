"""The same decoding with its input and output on a real S3 server."""

import gzip
import io
import os
import signal
import subprocess
import sys
import time

import imagecodecs
import numpy as np
import pandas as pd
import pytest
from precomputed import write_precomputed
from recipes import write
from s3_server import make_bucket, s3_server
from test_faults import JOB, workers_of
from volumes import random_polarity, write_polarity

import synpol
from synpol import InputError, decode_blockwise, polarity2instance
from synpol.blockwise import sources
from synpol.config import ImageSource
from synpol.images.image import open_image

pytestmark = pytest.mark.s3


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """URL of an empty bucket."""
    import s3fs

    with s3_server(tmp_path_factory.mktemp("s3")) as environment:
        before = {key: os.environ.get(key) for key in environment}
        os.environ.update(environment)
        s3fs.S3FileSystem.clear_instance_cache()
        make_bucket("volumes")
        yield "s3://volumes"
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})


VOLUME = random_polarity(4, (12, 60, 60), 3, 0.1, "uint8")


def test_input_and_output_can_be_remote(bucket, tmp_path):
    prediction = write_polarity(f"{bucket}/one", VOLUME, (6, 30, 30))
    decode_blockwise(
        f"{bucket}/one/polarity",
        f"{bucket}/one",
        block_shape=(6, 30, 30),
        thres_small=20,
        synapses=f"{bucket}/one/synapses.parquet",
        work_dir=tmp_path / "work",
    )
    assert prediction.endswith("/polarity")
    found = open_image(f"{bucket}/one/instances").array[:]
    assert np.array_equal(found, polarity2instance(VOLUME, thres_small=20))
    import s3fs

    table = pd.read_parquet(io.BytesIO(s3fs.S3FileSystem().cat("volumes/one/synapses.parquet")))
    assert set(table.synapse_id) == set(np.unique((found + 1) // 2)) - {0}


def test_a_killed_driver_is_finished_by_the_next(bucket, tmp_path):
    write_polarity(f"{bucket}/two", VOLUME, (6, 30, 30))
    work = tmp_path / "work"
    options = ["block_shape=(2, 10, 10)", "thres_small=20", f"work_dir={str(work)!r}"]
    command = [sys.executable, str(JOB), f"{bucket}/two/polarity", f"{bucket}/two", *options]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 90
    while not list(work.rglob("label/*/*/*.record")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert workers_of(process.pid) or list(work.rglob("*.record"))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    subprocess.run(command, check=True, timeout=180, stderr=subprocess.DEVNULL)
    found = open_image(f"{bucket}/two/instances").array[:]
    assert np.array_equal(found, synpol.polarity2instance(VOLUME, thres_small=20))


def test_a_missing_remote_array_is_named(bucket, tmp_path):
    with pytest.raises(InputError, match="s3://volumes/none"):
        decode_blockwise(
            f"{bucket}/none", f"{bucket}/out", block_shape=(1, 1, 1), work_dir=tmp_path
        )


# ---------------------------------------------------------------- images of others

_PACK = {"gzip": gzip.compress, "br": imagecodecs.brotli_encode}


@pytest.mark.parametrize("encoding", ["", "gzip", "br"])
def test_precomputed_volumes_are_read_and_written(bucket, tmp_path, encoding):
    import s3fs

    from synpol.synapses.segmentation import write_segmentation

    write_precomputed(tmp_path / "raw", VOLUME)
    system = s3fs.S3FileSystem()
    for file in (p for p in (tmp_path / "raw").rglob("*") if p.is_file()):
        content, name = file.read_bytes(), file.relative_to(tmp_path / "raw")
        packed = encoding and file.name != "info"
        system.pipe_file(
            f"volumes/raw{encoding}/{name}",
            _PACK[encoding](content) if packed else content,
            **({"ContentEncoding": encoding} if packed else {}),
        )
    image = open_image(f"precomputed://{bucket}/raw{encoding}")
    assert np.array_equal(image.array[:], VOLUME)
    labels = polarity2instance(VOLUME, thres_small=20).astype(np.uint64)
    write(tmp_path, "instances", labels)
    place = f"{bucket}/segmentation{encoding}"
    instances = open_image(tmp_path / "instances")
    for _ in range(2):
        write_segmentation(instances, place, work_dir=tmp_path / "work")
    written = open_image(f"precomputed://{place}")
    assert np.array_equal(written.array[:], labels)
    assert sources.stamp_of(written) is not None


@pytest.mark.parametrize("scheme", ["", "precomputed://"])
def test_what_may_not_be_read_without_credentials_is_refused(bucket, tmp_path, scheme):
    if scheme:
        segmentation = np.ones((4, 4, 4), np.uint64)
        write(tmp_path, "instances", segmentation)
        from synpol.synapses.segmentation import write_segmentation

        image = open_image(tmp_path / "instances")
        write_segmentation(image, f"{bucket}/closed", work_dir=tmp_path / "work")
    else:
        write(f"{bucket}/closed_zarr", "a", VOLUME[0])
    path = f"{bucket}/closed" if scheme else f"{bucket}/closed_zarr/a"
    assert open_image(f"{scheme}{path}").array[:].any()
    with pytest.raises(InputError, match=r"may not be read .*leave `anonymous` out"):
        open_image(ImageSource(path=f"{scheme}{path}", anonymous=True))
    with pytest.raises(InputError, match=r"there is no .*none"):
        open_image(f"{scheme}{bucket}/none")


def test_what_everybody_may_read_needs_no_credentials(tmp_path, monkeypatch):
    import s3fs

    with s3_server(tmp_path, everybody=True) as environment:
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            secret = environment.pop(key)
            monkeypatch.setenv(key, secret)
        for key, value in environment.items():
            monkeypatch.setenv(key, value)
        s3fs.S3FileSystem.clear_instance_cache()
        make_bucket("public")
        write("s3://public", "raw", VOLUME[0], voxel_size=(40, 8, 4))
        write_precomputed(tmp_path / "raw", VOLUME[0])
        s3fs.S3FileSystem().put(f"{tmp_path}/raw/", "public/pre/", recursive=True)
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(key)
        s3fs.S3FileSystem.clear_instance_cache()
        for path in ("s3://public/raw", "precomputed://s3://public/pre"):
            image = open_image(ImageSource(path=path, anonymous=True))
            assert np.array_equal(image.array[:], VOLUME[0])
            assert image.voxel_size_nm == (40, 8, 4)
    s3fs.S3FileSystem.clear_instance_cache()
