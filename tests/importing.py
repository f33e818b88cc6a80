"""What tests of the importers share: a volume, files that hold it, and the import."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import imageio.v3 as iio
import numpy as np
import tifffile

from synpol.config import ImportVolume
from synpol.datasets.import_volume import import_volume
from synpol.images.image import Image

SHAPE = (19, 24, 37)  # more than one slab of 16 sections; nothing divides anything
VOXEL_SIZE, OFFSET = (40, 8, 4), (120, -16, 12)
RAW = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
LABELS = np.random.default_rng(1).integers(2**60, 2**63, SHAPE, dtype=np.uint64)
KEYS = {"volumes/raw": RAW, "volumes/labels": LABELS, "volumes/mask": RAW > 64, "one": RAW[0]}


def write_hdf5(path: Path, arrays: Any = KEYS) -> Path:
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            file[key] = array
    return path


def write_tiff(path: Path, data: np.ndarray = RAW) -> Path:
    tifffile.imwrite(path, data, photometric="minisblack")
    return path


def write_folder(path: Path, sections: Any = RAW, ending: str = "png") -> Path:
    path.mkdir()
    for i, section in enumerate(sections):
        iio.imwrite(path / f"section_{i:03d}.{ending}", section)
    return path


WRITERS = {
    "hdf5": lambda folder: write_hdf5(folder / "a.h5"),
    "tiff": lambda folder: write_tiff(folder / "a.tif"),
    "pngs": lambda folder: write_folder(folder / "pngs"),
    "tiffs": lambda folder: write_folder(folder / "tiffs", ending="tif"),
}


def convert(source: Path, output: Path, **more: Any) -> Image:
    """Import with the usual voxel size; `key` is the image where the source is HDF5."""
    if source.suffix == ".h5":
        more = {"key": "volumes/raw", **more}
    more = {"voxel_size": VOXEL_SIZE, **more}
    return import_volume(ImportVolume(source=str(source), output=str(output), **more))


def made_of(source: Path, **more: Any) -> Image:
    """Import with what the source says and what is given, beside the source."""
    output = source.with_name(f"{source.name}.made")
    return import_volume(ImportVolume(source=str(source), output=str(output), **more))


def same(image: Image, values: np.ndarray, size: Any = None, offset: Any = None) -> None:
    """Check values, voxel size and offset (nm) of an image."""
    found = image.array[:]
    assert found.shape == values.shape
    assert np.array_equal(found, values)
    if size is not None:
        assert np.allclose(image.voxel_size_nm, size, rtol=1e-9, atol=0)
    if offset is not None:
        assert np.allclose(image.offset_nm, offset, rtol=0, atol=1e-6)
