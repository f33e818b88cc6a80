"""Importers: HDF5 volumes and stacks of TIFF or PNG sections become OME-Zarr, section by section.

Only a slab of sections, one chunk deep, is in memory at a time.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from synpol.config import ImportVolume
from synpol.errors import InputError, nearest
from synpol.files import is_url
from synpol.images.identity import hash_of
from synpol.images.image import COMPLETE, HASH, Image, open_image
from synpol.images.world import to_world
from synpol.images.writing import check_writable, complete, create_image, half_made

CHUNK = (16, 128, 128)


class Stack(ABC):
    """A volume that is read in slabs of whole sections."""

    shape: tuple[int, int, int]
    dtype: np.dtype

    @abstractmethod
    def slab(self, begin: int, end: int) -> np.ndarray:
        """Sections begin .. end - 1; (z, y, x)."""


class Hdf5Stack(Stack):
    """A dataset (z, y, x) of an HDF5 file."""

    def __init__(self, path: Path, key: str | None) -> None:
        import h5py

        try:
            self.file = h5py.File(path, "r")
        except OSError as error:
            raise InputError(f"{path} cannot be read as HDF5: {error}") from None
        keys: list[str] = []
        self.file.visititems(
            lambda name, item: keys.append(name) if isinstance(item, h5py.Dataset) else None
        )
        if key is None:
            raise InputError(f"{path} is HDF5: say which dataset (`key:`){nearest('', keys)}")
        key = key.strip("/")
        if key not in keys:
            raise InputError(f"{path} has no dataset {key!r}{nearest(key, keys)}")
        self.data = self.file[key]
        if self.data.ndim != 3:
            raise InputError(f"{path}:{key} has the shape {self.data.shape}; (z, y, x) is expected")
        self.shape, self.dtype = self.data.shape, self.data.dtype

    def slab(self, begin: int, end: int) -> np.ndarray:
        return self.data[begin:end]


class SectionStack(Stack):
    """A folder with one image a section, in the order of their names."""

    def __init__(self, folder: Path) -> None:
        endings = {".png", ".tif", ".tiff"}
        found = (p for p in folder.iterdir() if p.suffix.lower() in endings)
        self.files = sorted(found, key=_natural)
        if not self.files:
            raise InputError(f"{folder} holds no PNG or TIFF sections")
        first = self._read(self.files[0])
        self.shape, self.dtype = (len(self.files), *first.shape), first.dtype

    def _read(self, path: Path) -> np.ndarray:
        import imageio.v3 as iio

        try:
            section = np.asarray(iio.imread(path))
        except Exception as error:
            raise InputError(f"{path} cannot be read as an image: {error}") from None
        if section.ndim != 2:
            raise InputError(f"{path} has the shape {section.shape}; a grey image is expected")
        return section

    def slab(self, begin: int, end: int) -> np.ndarray:
        sections = []
        for path in self.files[begin:end]:
            section = self._read(path)
            if section.shape != self.shape[1:] or section.dtype != self.dtype:
                raise InputError(
                    f"{path} is {section.shape} {section.dtype}, but {self.files[0]} is "
                    f"{self.shape[1:]} {self.dtype}; all sections have to be alike"
                )
            sections.append(section)
        return np.stack(sections)


class TiffStack(Stack):
    """A multi-page TIFF file."""

    def __init__(self, path: Path) -> None:
        import tifffile

        try:
            self.file = tifffile.TiffFile(path)
            self.pages = list(self.file.pages)
            sections = sum(math.prod(series.shape[:-2]) for series in self.file.series)
            first, kinds = self.pages[0], {(page.shape, page.dtype) for page in self.pages}
        except Exception as error:
            raise InputError(f"{path} cannot be read as TIFF: {error}") from None
        if len(kinds) > 1 or len(first.shape) != 2 or first.dtype is None:
            found = ", ".join(f"{shape} {dtype}" for shape, dtype in sorted(kinds, key=str))
            raise InputError(f"{path} has pages of {found}; grey pages that are alike are expected")
        if sections != len(self.pages):
            raise InputError(
                f"{path} has {sections} sections in {len(self.pages)} pages; one page a section is "
                "expected"
            )
        self.shape, self.dtype = (len(self.pages), *first.shape), first.dtype

    def slab(self, begin: int, end: int) -> np.ndarray:
        return np.stack([page.asarray() for page in self.pages[begin:end]])


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort key under which s2 comes before s10."""
    return [(int(t), "") if t.isdigit() else (-1, t) for t in re.split(r"(\d+)", path.name)]


def open_stack(source: str, key: str | None) -> Stack:
    """Open what an import reads: an HDF5 file, a TIFF file, or a folder of sections.

    Raises
    ------
    InputError
        Nothing there, an unknown format, or a key that is not in the file.
    """
    path = Path(source)
    if not path.exists():
        known = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise InputError(f"there is no file or folder {source}{nearest(path.name, known)}")
    if path.is_dir():
        return SectionStack(path)
    if path.suffix.lower() in (".h5", ".hdf5", ".hdf", ".he5"):
        return Hdf5Stack(path, key)
    if path.suffix.lower() in (".tif", ".tiff"):
        return TiffStack(path)
    raise InputError(f"{source} is neither HDF5 (.h5), nor TIFF (.tif), nor a folder of sections")


def import_volume(volume: ImportVolume) -> Image:
    """Convert one volume into ``output`` as OME-Zarr; what is there already is left alone.

    Raises
    ------
    InputError
        The source cannot be read, a size is not whole in its unit, or `output` exists and is
        something else.
    """
    if is_url(volume.output):
        raise InputError(f"output is {volume.output}; imports are written to local folders only")
    stack = open_stack(volume.source, volume.key)
    first, last = volume.sections or (0, stack.shape[0])
    if not 0 <= first < last <= stack.shape[0]:
        raise InputError(
            f"sections is [{first}, {last}], but {volume.source} has {stack.shape[0]} sections; "
            f"0 <= first < last <= {stack.shape[0]} is expected"
        )
    shrink = volume.downsample
    size = [v * f for v, f in zip(volume.voxel_size, (1, shrink, shrink), strict=True)]
    voxel_size, unit = to_world(size, volume.unit, "voxel_size", positive=True)
    offset, _ = to_world(volume.offset, volume.unit, "offset")
    shape = (last - first, stack.shape[1] // shrink, stack.shape[2] // shrink)
    dtype = stack.dtype if stack.dtype != bool else np.dtype(np.uint8)
    if min(shape) < 1:
        raise InputError(
            f"downsample is {shrink}, but the sections of {volume.source} have only "
            f"{stack.shape[1]} x {stack.shape[2]} pixels"
        )
    source = Path(volume.source)
    files = sorted(source.iterdir()) if source.is_dir() else [source]
    made_of = [[f.name, f.stat().st_mtime_ns, f.stat().st_size] for f in files]
    digest = hash_of([volume.model_dump(mode="json"), made_of])
    place = Path(volume.output)
    container, name = str(place.parent), place.name
    found = existing(volume.output, digest)
    if found is not None:
        return found
    check_writable(container)
    image = create_image(
        container,
        name,
        shape=shape,
        dtype=dtype,
        voxel_size=voxel_size,
        offset=offset,
        unit=unit,
        chunk_shape=[min(c, s) for c, s in zip(CHUNK, shape, strict=True)],
        attributes={HASH: digest, COMPLETE: False},
        overwrite=True,
    )
    bar = tqdm(total=shape[0], desc=f"import {volume.source}", unit="section", mininterval=0.5)
    for begin in range(0, shape[0], CHUNK[0]):
        end = min(begin + CHUNK[0], shape[0])
        slab = stack.slab(first + begin, first + end)
        image.array[begin:end] = downsampled(slab, shrink, volume.kind).astype(dtype)
        bar.update(end - begin)
    bar.close()
    complete(image)
    return image


def existing(path: str, digest: str) -> Image | None:
    """The finished image of the same making at a path; None when there is none.

    Raises
    ------
    InputError
        Something that synpol did not make is there.
    """
    try:
        image = open_image(path)
    except InputError:
        place = Path(path)
        there = place.is_file() or (place.is_dir() and any(place.iterdir()))
        if there and not half_made(path):
            raise InputError(f"{path} exists and was not written by synpol; remove it") from None
        return None
    attributes: dict[str, Any] = dict(image.array.attrs)
    if HASH not in attributes:
        raise InputError(f"{image.path} exists and was not written by synpol; remove it")
    return image if attributes[HASH] == digest and attributes.get(COMPLETE) else None


def downsampled(slab: np.ndarray, factor: int, kind: str) -> np.ndarray:
    """Shrink sections in plane.

    Parameters
    ----------
    slab : (z, y, x) array
    factor : int
        What does not fill a box at the far edges is cut off.
    kind : {"image", "labels"}
        Images are averaged; labels keep the one in the middle of each box: no id is made up.
    """
    if factor == 1:
        return slab
    z, y, x = slab.shape
    boxes = slab[:, : y // factor * factor, : x // factor * factor].reshape(
        z, y // factor, factor, x // factor, factor
    )
    if kind == "labels":
        return boxes[:, :, factor // 2, :, factor // 2]
    mean = boxes.mean(axis=(2, 4))
    return np.rint(mean) if slab.dtype.kind in "uib" else mean


def describe_volume(image: Image) -> str:
    """One line about an image for people."""
    shape = " x ".join(str(s) for s in image.array.shape)
    size = " x ".join(f"{v:g}" for v in image.voxel_size_nm)
    return f"{image.path}: {shape} voxels of {size} nm, {image.array.dtype}"
