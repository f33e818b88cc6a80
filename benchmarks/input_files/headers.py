"""Formats with a header and plain voxels behind it: MRC, NIfTI, NRRD."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .file import CORNER, IDS, LABELS, RAW, SAID, SIZE, File


def header_files() -> Iterator[File]:
    for dtype in (np.int16, np.float32, np.uint16):
        name = np.dtype(dtype).name
        yield File("MRC", "mrcfile", name, partial(mrc, dtype=dtype), RAW.astype(dtype))
    write = partial(mrc, dtype=np.int16, packed=True)
    yield File("MRC", "mrcfile", "int16, gzip", write, RAW.astype(np.int16))
    for ending in ("nii", "nii.gz"):
        write = partial(nifti, ending=ending)
        yield File("NIfTI", "nibabel", ending, write, placed=True)
    yield File("NIfTI", "nibabel", "NIfTI-2", partial(nifti, ending="nii", two=True), placed=True)
    yield File("NIfTI", "MONAI", "NibabelWriter", monai_nifti, RAW.astype(np.int16), SAID)
    for encoding in ("raw", "gzip", "bzip2"):
        write = partial(nrrd_file, encoding=encoding)
        yield File("NRRD", "pynrrd", encoding, write, placed=True)
    write = partial(nrrd_file, encoding="gzip", ending="nhdr")
    yield File("NRRD", "pynrrd", "header and data apart", write, placed=True)
    write = partial(nrrd_file, encoding="gzip", values=IDS)
    yield File("NRRD", "pynrrd", "uint64", write, IDS, LABELS, placed=True)


def mrc(folder: Path, dtype: type, packed: bool = False) -> Path:
    import mrcfile

    path = folder / "a.mrc"
    with mrcfile.new(path) as file:
        file.set_data(RAW.astype(dtype))
        file.voxel_size = tuple(10 * v for v in SIZE[::-1])
    if not packed:
        return path
    with open(path, "rb") as plain, gzip.open(folder / "a.mrc.gz", "wb") as target:
        shutil.copyfileobj(plain, target)
    return folder / "a.mrc.gz"


def nifti(folder: Path, ending: str, two: bool = False) -> Path:
    import nibabel

    affine = np.diag([*(v / 1000 for v in SIZE[::-1]), 1])
    affine[:3, 3] = [(c + s / 2) / 1000 for c, s in zip(CORNER[::-1], SIZE[::-1], strict=True)]
    image: Any = (nibabel.Nifti2Image if two else nibabel.Nifti1Image)(RAW.T, affine)
    image.header.set_xyzt_units("micron")
    image.to_filename(folder / f"a.{ending}")
    return folder / f"a.{ending}"


def monai_nifti(folder: Path) -> Path:
    from monai.data import NibabelWriter

    writer = NibabelWriter(output_dtype=np.int16)
    writer.set_data_array(RAW.T, channel_dim=None)
    writer.set_metadata({"affine": np.eye(4), "original_affine": np.eye(4)})
    writer.write(folder / "a.nii.gz")
    return folder / "a.nii.gz"


def nrrd_file(folder: Path, encoding: str, values: np.ndarray = RAW, ending: str = "nrrd") -> Path:
    import nrrd

    about = {
        "space": "left-posterior-superior",
        "space directions": np.diag(SIZE[::-1]),
        "space origin": np.array(CORNER[::-1]) + np.array(SIZE[::-1]) / 2,
        "space units": ["nm"] * 3,
        "encoding": encoding,
    }
    path = folder / f"a.{ending}"
    nrrd.write(str(path), values.T, about, index_order="F")
    return path
