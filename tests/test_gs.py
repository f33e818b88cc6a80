"""The same work with images in a bucket of Google Cloud Storage (an emulator on loopback)."""

import json
import os

import numpy as np
import pandas as pd
import pytest
import tensorstore
from importing import same
from precomputed import write_precomputed
from recipes import write
from volumes import random_polarity, write_polarity

from synpol import InputError, decode_blockwise, polarity2instance
from synpol.config import ImageSource, ImportVolume
from synpol.datasets.import_volume import import_volume
from synpol.images import stores
from synpol.images.image import check_readable, open_image

VOLUME = random_polarity(4, (12, 60, 60), 3, 0.1, "uint8")


@pytest.fixture(scope="module")
def address():
    """Address of a server with the empty bucket ``volumes``."""
    from gcp_storage_emulator.server import create_server

    server = create_server("127.0.0.1", 0, in_memory=True, default_bucket="volumes")
    server.start()
    url = f"http://127.0.0.1:{server._api._httpd.server_address[1]}"
    environment = {
        "STORAGE_EMULATOR_HOST": url,  # gcsfs, for Zarr
        "TENSORSTORE_GCS_HTTP_URL": url,
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # kinds of buckets that the emulator lacks
        "NO_GCE_CHECK": "true",  # no search for credentials on the network
    }
    before = {key: os.environ.get(key) for key in environment}
    os.environ.update(environment)
    from gcsfs import GCSFileSystem  # reads the environment

    GCSFileSystem.clear_instance_cache()
    yield url
    for key, value in before.items():
        os.environ.pop(key) if value is None else os.environ.update({key: value})
    GCSFileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture
def bucket(address):
    """What writes files into the bucket."""
    from gcsfs import GCSFileSystem

    return GCSFileSystem()


def test_input_and_output_lie_in_a_bucket(bucket, tmp_path):
    write_polarity("gs://volumes/one", VOLUME, (6, 30, 30))
    decode_blockwise(
        "gs://volumes/one/polarity",
        "gs://volumes/one",
        block_shape=(6, 30, 30),
        thres_small=20,
        synapses=tmp_path / "synapses.parquet",
        work_dir=tmp_path / "work",
    )
    found = open_image("gs://volumes/one/instances").array[:]
    assert np.array_equal(found, polarity2instance(VOLUME, thres_small=20))
    table = pd.read_parquet(tmp_path / "synapses.parquet")
    assert set(table.synapse_id) == set(np.unique((found + 1) // 2)) - {0}


@pytest.mark.parametrize("kind", ["zarr", "precomputed", "n5"])
@pytest.mark.parametrize("anonymous", [False, True])
def test_images_in_a_bucket_are_those_that_were_written(
    kind, anonymous, address, bucket, monkeypatch, tmp_path
):
    raw = np.random.default_rng(0).integers(1, 256, (13, 16, 17), dtype=np.uint8)
    name, scheme = f"{kind}{anonymous}", ""
    if kind == "zarr":
        write(tmp_path, "raw", raw, voxel_size=(40, 8, 4))
    elif kind == "n5":
        name += ".n5/raw"
        _write_n5(tmp_path / "raw", raw)
    else:
        write_precomputed(tmp_path / "raw", raw)
        scheme = "precomputed://"
    for file in (p for p in (tmp_path / "raw").rglob("*") if p.is_file()):
        inner = file.relative_to(tmp_path / "raw")
        bucket.pipe_file(f"volumes/{name}/{inner}", file.read_bytes())
    if anonymous:  # the public interface of a bucket, which gcsfs and credentials are not asked for
        monkeypatch.setattr(stores, "_PUBLIC", address)
        for variable in ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL"):
            monkeypatch.setenv(variable, "http://127.0.0.1:9")
    path = f"{scheme}gs://volumes/{name}"
    image = open_image(ImageSource(path=path, anonymous=anonymous), channels=0)
    check_readable(image)
    assert np.array_equal(image.array[:], raw)
    assert image.voxel_size_nm == (40, 8, 4)
    made = ImportVolume(source=path, output=str(tmp_path / "made"), anonymous=anonymous)
    same(import_volume(made), raw, (40, 8, 4))


def _write_n5(path, values):
    stored = tensorstore.open(
        {
            "driver": "n5",
            "kvstore": {"driver": "file", "path": f"{path}/"},
            "metadata": {
                "dimensions": values.shape[::-1],
                "blockSize": [7, 6, 5],
                "dataType": "uint8",
                "compression": {"type": "gzip"},
            },
        },
        create=True,
    ).result()
    stored.T[...] = values
    attributes = json.loads((path / "attributes.json").read_text())
    attributes |= {"resolution": [4, 8, 40], "units": ["nm"] * 3}
    (path / "attributes.json").write_text(json.dumps(attributes))


def test_a_segmentation_is_written_into_a_bucket(bucket, tmp_path):
    from synpol.synapses.segmentation import write_segmentation

    labels = polarity2instance(VOLUME, thres_small=20).astype(np.uint64)
    write(tmp_path, "instances", labels)
    instances = open_image(tmp_path / "instances")
    write_segmentation(instances, "gs://volumes/segmentation", work_dir=tmp_path / "work")
    # the server names no generations of files, by which tensorstore reads parts of them
    bucket.get("volumes/segmentation/", f"{tmp_path}/copy/", recursive=True)
    found = open_image(f"precomputed://{tmp_path}/copy")
    assert np.array_equal(found.array[:], labels)


def test_what_is_not_in_a_bucket_is_named(bucket):
    for path in ("gs://volumes/none", "precomputed://gs://volumes/none"):
        with pytest.raises(InputError, match=r"gs://volumes/none"):
            open_image(path)
