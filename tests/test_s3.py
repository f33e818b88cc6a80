"""The same decoding with its input and output on a real S3 server."""

import io
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from s3_server import s3_server
from test_faults import JOB, workers_of
from volumes import random_polarity, write_polarity

import synpol
from synpol import InputError, decode_blockwise, polarity2instance
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
        deadline = time.monotonic() + 30
        while True:
            try:
                s3fs.S3FileSystem().mkdir("volumes")
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
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
