"""Zarr in ZIP files, and folders of formats that are imported."""

import json

import numpy as np
import pandas as pd
import pytest
import zarr
from recipes import run, tiny_config, tiny_volume
from zarr.storage import ZipStore

from synpol.blockwise import sources
from synpol.config import ImportVolume
from synpol.datasets.import_volume import import_volume
from synpol.errors import InputError
from synpol.images.image import open_image
from synpol.training import volumes

RAW = np.random.default_rng(0).integers(0, 256, (13, 16, 17), dtype=np.uint8)


def zipped(path, **arrays):
    """A ZIP file of single arrays."""
    with ZipStore(path, mode="w") as store:
        for name, values in arrays.items():
            about = {"voxel_size": [30, 16, 16], "offset": [30, 0, 16]}
            zarr.create_array(
                store, name=name, data=values, chunks=(5, 6, 7), attributes=about, zarr_format=3
            )
    return path


def test_an_array_in_a_zip_file_is_read(tmp_path):
    path = zipped(tmp_path / "a.zip", raw=RAW, other=RAW[:2])
    image = open_image(path / "raw", channels=0)
    assert np.array_equal(image.array[2:7, 3], RAW[2:7, 3])
    assert image.voxel_size_nm == (30, 16, 16) and image.offset_nm == (30, 0, 16)
    first = sources.stamp_of(image)
    zipped(path, raw=255 - RAW)
    assert sources.stamp_of(open_image(path / "raw")) != first
    with pytest.raises(InputError, match="read only; unpack it"):
        open_image(path / "raw", mode="r+")
    with pytest.raises(InputError, match="there is no Zarr array or group"):
        open_image(path / "none")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_training_reads_zip_files_in_forked_processes(num_workers, tmp_path, monkeypatch):
    tiny_volume(tmp_path / "data")
    assert run("train", tiny_config(tmp_path, train__num_workers=num_workers)) == 0
    expected = pd.read_csv(tmp_path / "run" / "log.csv").loss.tolist()
    arrays = {n: open_image(tmp_path / "data" / n).array[:] for n in ("raw", "truth")}
    path = zipped(tmp_path / "a.zip", **arrays)
    monkeypatch.setattr(volumes, "HELD", 0)  # the first was held in memory
    data = {"raw": f"{path}/raw", "truth": f"{path}/truth", "labels": "polarity"}
    config = tiny_config(
        tmp_path,
        run_dir=f"{tmp_path}/again",
        train__num_workers=num_workers,
        data={"train": [data]},
    )
    assert run("train", config) == 0
    assert pd.read_csv(tmp_path / "again" / "log.csv").loss.tolist() == expected


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("attributes.json", "N5"),
        ("datasource-properties.json", "WEBKNOSSOS"),
        ("knossos.conf", "KNOSSOS"),
    ],
)
def test_folders_that_are_imported_first_say_so(name, kind, tmp_path):
    (tmp_path / name).write_text("{}")
    with pytest.raises(InputError, match=rf"{kind}.* imported first .*pipelines/prepare.py"):
        open_image(tmp_path)


def test_files_that_are_imported_first_say_so(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(InputError, match=r"HDF5 and TIFF are imported first .*prepare.py"):
        open_image(tmp_path / "a.h5")


def test_an_array_in_a_zip_file_is_imported(tmp_path):
    path = zipped(tmp_path / "a.zip", raw=RAW, other=RAW[:2])
    entry = {"source": str(path), "output": str(tmp_path / "made")}
    made = import_volume(ImportVolume(**entry, key="raw"))
    assert np.array_equal(made.array[:], RAW)
    assert made.voxel_size_nm == (30, 16, 16) and made.offset_nm == (30, 0, 16)
    with pytest.raises(InputError, match="`anonymous` is not read"):
        import_volume(ImportVolume(**entry, key="raw", anonymous=True))


@pytest.mark.parametrize("unit", ["nanometer", "micrometer"])
def test_a_layer_of_webknossos_is_read_with_the_axes_and_voxels_of_its_data_set(unit, tmp_path):
    factor = [4, 8, 40] if unit == "nanometer" else [0.004, 0.008, 0.04]
    data = zarr.create_array(
        tmp_path / "em" / "2-2-1", shape=(1, 17, 16, 13), dtype="u1", chunks=(1, 8, 8, 8)
    )
    data[0] = RAW.T
    mag = {"mag": [2, 2, 1], "axisOrder": {"c": 0, "x": 1, "y": 2, "z": 3}}
    about = {
        "dataLayers": [{"name": "em", "mags": [mag]}],
        "scale": {"factor": factor, "unit": unit},
    }
    (tmp_path / "datasource-properties.json").write_text(json.dumps(about))
    image = open_image(tmp_path / "em" / "2-2-1", channels=0)
    assert np.array_equal(image.array[:], RAW)
    assert image.voxel_size_nm == (40, 16, 8) and image.offset_nm == (0, 0, 0)
    (tmp_path / "datasource-properties.json").write_text(json.dumps(about | {"scale": [1]}))
    with pytest.raises(InputError, match=r"datasource-properties.json cannot be understood"):
        open_image(tmp_path / "em" / "2-2-1")
