"""Images on disk: OME-Zarr 0.5 groups that neuroglancer, napari and funlib.persistence open.

Every image that synpol writes is a Zarr v3 group with the OME 0.5 metadata and its full
resolution in the array ``s0``, which also carries the attributes that
``funlib.persistence.open_ds`` reads. Decoding workers start in a second because this module needs
zarr alone: funlib.persistence brings dask and xarray, which take several seconds to import.
Where an image lies in the world is read and written by ``world.py``.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import zarr
import zarr.errors
from funlib.geometry import Coordinate, Roi

from synpol.errors import InputError, nearest
from synpol.files import is_url, join
from synpol.images.precomputed import SCHEME, PrecomputedArray
from synpol.images.world import SIZE_KEYS, in_nm, multiscales_of, placement


@dataclass(frozen=True)
class Image:
    """An open image: a zarr array and where it lies in the world.

    Attributes
    ----------
    path : str
        Path or URL of the array itself.
    array : zarr.Array
        ``(z, y, x)``, or ``(channel, z, y, x)``; a `PrecomputedArray` where a
        segmentation is in that format.
    voxel_size, offset : Coordinate
        Size of a voxel, and corner of the first voxel, in `unit`; z, y, x.
    unit : {"nm", "angstrom", "pm"}
    """

    path: str
    array: zarr.Array
    voxel_size: Coordinate
    offset: Coordinate
    unit: str

    @property
    def shape_vx(self) -> Coordinate:
        """Spatial shape in voxels."""
        return Coordinate(self.array.shape[-3:])

    @property
    def roi(self) -> Roi:
        """What the image covers, in world units."""
        return Roi(self.offset, self.shape_vx * self.voxel_size)

    @property
    def voxel_size_nm(self) -> tuple[float, ...]:
        return tuple(in_nm(v, self.unit) for v in self.voxel_size)

    @property
    def offset_nm(self) -> tuple[float, ...]:
        return tuple(in_nm(v, self.unit) for v in self.offset)

    @property
    def end_nm(self) -> tuple[float, ...]:
        """The corner of the last voxel, opposite to `offset_nm`."""
        sizes = zip(self.offset_nm, self.shape_vx, self.voxel_size_nm, strict=True)
        return tuple(o + n * v for o, n, v in sizes)

    def voxels(self, roi: Roi) -> tuple[slice, slice, slice]:
        """Slices of the voxels in a ROI that lies on the voxel grid."""
        begin = (roi.begin - self.offset) / self.voxel_size
        end = (roi.end - self.offset) / self.voxel_size
        return tuple(slice(b, e) for b, e in zip(begin, end, strict=True))  # type: ignore[return-value]

    def same_grid(self, other: Image, what: str) -> None:
        """Refuse another image that does not cover the same voxels.

        Raises
        ------
        InputError
            Naming both images and what differs.
        """
        for name, mine, theirs in (
            ("shape (z, y, x)", self.shape_vx, other.shape_vx),
            ("voxel size", self.voxel_size_nm, other.voxel_size_nm),
            ("offset", self.offset_nm, other.offset_nm),
        ):
            if tuple(mine) != tuple(theirs):
                unit = "voxels" if name.startswith("shape") else "nm"
                raise InputError(
                    f"{what} {other.path} has the {name} {tuple(theirs)} {unit}, but "
                    f"{self.path} has {tuple(mine)} {unit}; both must cover the same voxels"
                )

    def place_of(self, part: Image, what: str, coarser: bool = False) -> tuple[int, int, int]:
        """Where another image begins within this one, in voxels of that other image.

        Parameters
        ----------
        part : Image
            Has to lie inside this image on the same voxel grid.
        what : str
            What this image is, for the message.
        coarser : bool
            Whether voxels of this image may be whole multiples of those of the other; see
            `multiple_of`.

        Raises
        ------
        InputError
            Naming both images and what differs.
        """
        size = part.voxel_size_nm
        if not coarser and size != self.voxel_size_nm:
            raise InputError(
                f"{what} {self.path} has the voxel size {self.voxel_size_nm} nm, but {part.path} "
                f"has {size} nm; both must have the same voxels"
            )
        shape = np.array(self.shape_vx) * self.multiple_of(part, what)
        place = []
        for axis, begins in enumerate(zip(part.offset_nm, self.offset_nm, strict=True)):
            begin = (begins[0] - begins[1]) / size[axis]
            end = begin + part.shape_vx[axis]
            if abs(begin - round(begin)) > 1e-6 or begin < -1e-6 or end > shape[axis] + 1e-6:
                covered = [
                    f"{o:g}..{o + n * size[axis]:g}"
                    for o, n in zip(begins, (part.shape_vx[axis], shape[axis]), strict=True)
                ]
                raise InputError(
                    f"{what} {self.path} does not cover {part.path} on whole voxels along "
                    f"{'zyx'[axis]}: it is {covered[1]} nm, that is {covered[0]} nm"
                )
            place.append(round(begin))
        return place[0], place[1], place[2]

    def part_like(self, part: Image, what: str) -> np.ndarray:
        """The voxels of a (z, y, x) image that another covers, in memory; see `place_of`."""
        begin = self.place_of(part, what)
        return np.asarray(self.array[shifted([slice(0, n) for n in part.shape_vx], begin)])

    def multiple_of(self, finer: Image, what: str) -> tuple[int, int, int]:
        """How many voxels of another image make one of this along z, y and x.

        Raises
        ------
        InputError
            It is no whole number; `what` says what this image is.
        """
        ratios = [a / b for a, b in zip(self.voxel_size_nm, finer.voxel_size_nm, strict=True)]
        if any(abs(r - round(r)) > 1e-6 or round(r) < 1 for r in ratios):
            raise InputError(
                f"{what} {self.path} has the voxel size {self.voxel_size_nm} nm, which is no whole "
                f"multiple of that of {finer.path}, {finer.voxel_size_nm} nm"
            )
        z, y, x = (round(r) for r in ratios)
        return z, y, x


def shifted(where: Sequence[slice], begin: Sequence[int]) -> tuple[slice, ...]:
    """The same voxels in an image that begins earlier."""
    return tuple(slice(w.start + b, w.stop + b) for w, b in zip(where, begin, strict=True))


def open_image(
    path: str | os.PathLike[str],
    *,
    channels: int | None = None,
    mode: str = "r",
    bare: bool = False,
) -> Image:
    """Open an image wherever it is read: a group or an array, Zarr v3 or v2, OME 0.5 or 0.4.

    Parameters
    ----------
    path : path or URL
        An OME-Zarr group (its first, full-resolution dataset is taken) or an array; or, to be read
        only, a precomputed segmentation (``precomputed://`` and its folder or URL).
    channels : int, optional
        Refuse an array that does not have this many channels; 0 means ``(z, y, x)`` is expected.
    mode : {"r", "r+"}
    bare : bool
        Accept an array that says nothing about its voxel size, where that does not matter: a
        voxel counts as 1 nm then, with a warning.

    Returns
    -------
    Image

    Raises
    ------
    InputError
        Nothing there, no array in it, no voxel size known, a voxel size that is not whole in its
        unit, or another number of channels.

    Examples
    --------
    >>> from synpol.images.writing import create_image
    >>> _ = create_image(
    ...     "volume",
    ...     "raw",
    ...     shape=(16, 64, 64),
    ...     dtype="uint8",
    ...     voxel_size=(30, 8, 8),
    ...     offset=(300, 0, 0),
    ...     unit="nm",
    ...     chunk_shape=(16, 32, 32),
    ... )
    >>> image = open_image("volume/raw")
    >>> image.path, image.array.shape, image.unit
    ('volume/raw/s0', (16, 64, 64), 'nm')
    >>> image.voxel_size, image.roi.shape
    ((30, 8, 8), (480, 512, 512))
    """
    path = str(path).rstrip("/")
    if path.startswith(SCHEME):
        return _open_precomputed(path, channels, mode)
    node = _open_node(path, mode)
    multiscales: Mapping[str, Any] | None = None
    if isinstance(node, zarr.Group):
        multiscales = multiscales_of(node.attrs)
        if multiscales is None:
            names = sorted(name for name, _ in node.members())
            raise InputError(
                f"{path} is a Zarr group without OME multiscales metadata; give the path of an "
                f"image or an array inside it" + (f": {', '.join(names)}" if names else "")
            )
        name = multiscales["datasets"][0]["path"]
        if name not in node:
            raise InputError(f"{path} is an image whose array {name!r} is missing")
        array = node[name]
        path = join(path, name)
    else:
        array = node
        if not SIZE_KEYS & set(array.attrs):
            multiscales = _parent_multiscales(path)
    if not isinstance(array, zarr.Array):
        raise InputError(f"{path} is not an array")
    if array.ndim not in (3, 4):
        raise InputError(
            f"{path} has the shape {array.shape}; (z, y, x) or (channel, z, y, x) is expected"
        )
    found = 0 if array.ndim == 3 else array.shape[0]
    if channels is not None and found != channels:
        expected = "(z, y, x)" if channels == 0 else f"({channels}, z, y, x)"
        raise InputError(f"{path} has the shape {array.shape}; {expected} is expected")
    if bare and multiscales is None and not SIZE_KEYS & set(array.attrs):
        warnings.warn(f"{path} says nothing about its voxel size; it counts as 1 nm", stacklevel=2)
        return Image(path, array, Coordinate(1, 1, 1), Coordinate(0, 0, 0), "nm")
    voxel_size, offset, unit = placement(path, array, multiscales)
    return Image(path, array, voxel_size, offset, unit)


def _open_precomputed(path: str, channels: int | None, mode: str) -> Image:
    if channels or mode != "r":
        raise InputError(f"{path} is precomputed; only segmentations are read in that format")
    volume = PrecomputedArray(path.removeprefix(SCHEME))
    voxel_size, offset, unit = volume.placement(path)
    return Image(path, cast(zarr.Array, volume), voxel_size, offset, unit)


def _open_node(path: str, mode: str) -> zarr.Group | zarr.Array:
    try:
        return zarr.open(path, mode=mode)  # type: ignore[arg-type]
    except (FileNotFoundError, KeyError, zarr.errors.NodeNotFoundError) as error:
        raise InputError(f"there is no Zarr array or group at {path}{_siblings(path)}") from error
    except (NotADirectoryError, ValueError, OSError) as error:
        raise InputError(f"{path} cannot be opened as Zarr: {error}") from error


def _siblings(path: str) -> str:
    if is_url(path):
        return ""
    here = Path(path)
    if here.is_dir():
        names = sorted(p.name for p in here.iterdir())[:20]
        return "; it is a folder without Zarr metadata" + (
            f", in which there is: {', '.join(names)}" if names else " and empty"
        )
    if here.exists():
        return "; it is a file; formats such as HDF5 and TIFF are imported first (prepare.imports)"
    parent = next((p for p in here.parents if p.exists()), Path("."))
    missing = here.relative_to(parent).parts[0] if parent != Path(".") else here.parts[0]
    if not parent.is_dir():
        return f"; {parent} is a file"
    return f" ({parent} exists{nearest(missing, [p.name for p in parent.iterdir()][:1000])})"


def _parent_multiscales(path: str) -> Mapping[str, Any] | None:
    parent, _, name = path.rpartition("/")
    try:
        group = zarr.open_group(parent or ".", mode="r")
    except (FileNotFoundError, ValueError, OSError, zarr.errors.NodeNotFoundError):
        return None
    found = multiscales_of(group.attrs)
    if found is None or all(d["path"] != name for d in found["datasets"]):
        return None
    return {**found, "datasets": [d for d in found["datasets"] if d["path"] == name]}


def levels_of(image: Image) -> list[str]:
    """Names of the coarser levels that an image's metadata list; none for an array alone."""
    found = listed_multiscales(image)
    return [d["path"] for d in found["datasets"][1:]] if found else []


def image_path(image: Image) -> str:
    """Path of the OME-Zarr group whose full resolution an array is, else of the array itself."""
    return image.path.rpartition("/")[0] if listed_multiscales(image) else image.path


def listed_multiscales(image: Image) -> Mapping[str, Any] | None:
    """The OME metadata of which an array is the full resolution, None for an array alone."""
    path, _, name = image.path.rpartition("/")
    if image.path.startswith(SCHEME):
        return None
    try:
        group = zarr.open_group(path or ".", mode="r")
    except (FileNotFoundError, ValueError, OSError, zarr.errors.NodeNotFoundError):
        return None
    found = multiscales_of(group.attrs)
    return found if found and found["datasets"][0]["path"] == name else None


def opened_group(
    path: str | os.PathLike[str], zarr_format: Literal[2, 3], mode: Literal["r", "r+"] = "r"
) -> zarr.Group | None:
    try:
        return zarr.open_group(str(path), mode=mode, zarr_format=zarr_format)
    except (FileNotFoundError, ValueError, OSError, zarr.errors.NodeNotFoundError):
        return None


def opened_array(path: str) -> zarr.Array | None:
    """A Zarr array, or None where there is none."""
    try:
        return zarr.open_array(path, mode="r")
    except (FileNotFoundError, ValueError, OSError, zarr.errors.NodeNotFoundError):
        return None
