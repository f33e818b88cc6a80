"""Images on disk: OME-Zarr 0.5 groups that neuroglancer, napari and funlib.persistence open.

Every image that synpol writes is a Zarr v3 group with the OME 0.5 metadata and its full
resolution in the array ``s0``, which also carries the attributes that
``funlib.persistence.open_ds`` reads. Decoding workers start in a second because this module needs
zarr alone: funlib.persistence brings dask and xarray, which take several seconds to import.

Two conventions differ by half a voxel: funlib's ``offset`` is the *corner* of the first voxel, the
OME translation its *centre* (which is how neuroglancer reads it). Both are written; the
corner is what synpol calls ``offset``.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
import zarr.errors
from funlib.geometry import Coordinate, Roi
from numpy.typing import DTypeLike
from zarr.codecs import ZstdCodec

from synpol.errors import InputError, nearest

#: attribute of every array that synpol writes: the hash of what it was made from
HASH = "synpol_hash"
#: attribute of an array that synpol writes: whether it is finished
COMPLETE = "synpol_complete"
#: attribute of an array that synpol writes: settings that its readers have to know
SETTINGS = "synpol_settings"
#: nm in one unit, for every length unit that is understood
NANOMETERS = {"nm": 1.0, "angstrom": 0.1, "pm": 0.001}
_OME_NAME = {"nm": "nanometer", "angstrom": "angstrom", "pm": "picometer"}
#: attributes of an array that tell its voxel size, funlib.persistence's and gunpowder's
_SIZE_KEYS = {"voxel_size", "resolution"}
_UNIT_ALIASES = {
    "nm": ("nm", 1),
    "nanometer": ("nm", 1),
    "nanometers": ("nm", 1),
    "angstrom": ("angstrom", 1),
    "a": ("angstrom", 1),
    "pm": ("pm", 1),
    "picometer": ("pm", 1),
    "um": ("nm", 1000),
    "µm": ("nm", 1000),
    "micrometer": ("nm", 1000),
    "micron": ("nm", 1000),
    "": ("nm", 1),
}


@dataclass(frozen=True)
class Image:
    """An open image: a zarr array and where it lies in the world.

    Attributes
    ----------
    path : str
        Path or URL of the array itself.
    array : zarr.Array
        ``(z, y, x)``, or ``(channel, z, y, x)``.
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
        return tuple(_in_nm(v, self.unit) for v in self.voxel_size)

    @property
    def offset_nm(self) -> tuple[float, ...]:
        return tuple(_in_nm(v, self.unit) for v in self.offset)

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


def _in_nm(value: int, unit: str) -> float:
    return value if unit == "nm" else round(value * NANOMETERS[unit], 6)


def to_world(
    sizes: Sequence[float], unit: str, what: str, *, positive: bool = False
) -> tuple[Coordinate, str]:
    """Turn sizes as given into whole world units.

    Parameters
    ----------
    sizes : sequence of 3 numbers
        z, y, x, in `unit`.
    unit : str
        "nm", "angstrom", "pm", or a longer name of one of them ("micrometer" becomes nm).
    what : str
        What the sizes are, for the message.
    positive : bool
        Whether every size has to be above zero.

    Returns
    -------
    (Coordinate, str)
        Whole numbers, and the unit they are in.

    Raises
    ------
    InputError
        A size that is not whole (gunpowder and funlib would truncate it without a word), three
        sizes that are not three, or an unknown unit.
    """
    if str(unit).lower() not in _UNIT_ALIASES:
        raise InputError(f"{what}: unknown unit {unit!r}{nearest(str(unit), NANOMETERS)}")
    base, factor = _UNIT_ALIASES[str(unit).lower()]
    if len(sizes) != 3:
        raise InputError(f"{what} is {tuple(sizes)}; three numbers z, y, x are expected")
    scaled = [float(s) * factor for s in sizes]
    whole = [round(s) for s in scaled]
    # what float32 and a change of unit leave of a whole number, but never a tenth of a unit
    slack = [min(1e-6 * max(1.0, abs(s)), 1e-3) for s in scaled]
    if any(abs(s - w) > t for s, w, t in zip(scaled, whole, slack, strict=True)):
        finer = {"nm": "angstrom", "angstrom": "pm"}.get(base, "pm")
        ratio = NANOMETERS[base] / NANOMETERS[finer]
        raise InputError(
            f"{what} {tuple(sizes)} {unit} is not whole in {base}, and world units are whole "
            f"numbers here; give it in {finer}: {tuple(round(s * ratio, 6) for s in scaled)} "
            f"with `unit: {finer}`"
        )
    if positive and min(whole) <= 0:
        raise InputError(f"{what} is {tuple(sizes)} {unit}; it must be above zero on every axis")
    return Coordinate(whole), base


def join(container: str | os.PathLike[str], *names: str) -> str:
    """Path or URL of something inside a container."""
    return "/".join([str(container).rstrip("/"), *names])


def is_url(path: str | os.PathLike[str]) -> bool:
    return "://" in str(path)


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
        An OME-Zarr group (its first, full-resolution dataset is taken) or an array.
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
    """
    path = str(path).rstrip("/")
    node = _open_node(path, mode)
    multiscales: Mapping[str, Any] | None = None
    if isinstance(node, zarr.Group):
        multiscales = _multiscales(node.attrs)
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
        if not _SIZE_KEYS & set(array.attrs):
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
    if bare and multiscales is None and not _SIZE_KEYS & set(array.attrs):
        warnings.warn(f"{path} says nothing about its voxel size; it counts as 1 nm", stacklevel=2)
        return Image(path, array, Coordinate(1, 1, 1), Coordinate(0, 0, 0), "nm")
    voxel_size, offset, unit = _placement(path, array, multiscales)
    return Image(path, array, voxel_size, offset, unit)


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
        return "; it is a file; HDF5, TIFF and PNG are imported with pipelines/prepare.py"
    parent = next((p for p in here.parents if p.exists()), Path("."))
    missing = here.relative_to(parent).parts[0] if parent != Path(".") else here.parts[0]
    if not parent.is_dir():
        return f"; {parent} is a file"
    return f" ({parent} exists{nearest(missing, [p.name for p in parent.iterdir()][:1000])})"


def _multiscales(attrs: Mapping[str, Any]) -> Mapping[str, Any] | None:
    found = dict(attrs).get("ome", attrs).get("multiscales")
    return found[0] if found else None


def _parent_multiscales(path: str) -> Mapping[str, Any] | None:
    parent, _, name = path.rpartition("/")
    try:
        group = zarr.open_group(parent or ".", mode="r")
    except (FileNotFoundError, ValueError, OSError, zarr.errors.NodeNotFoundError):
        return None
    found = _multiscales(group.attrs)
    if found is None or all(d["path"] != name for d in found["datasets"]):
        return None
    return {**found, "datasets": [d for d in found["datasets"] if d["path"] == name]}


def _placement(
    path: str, array: zarr.Array, multiscales: Mapping[str, Any] | None
) -> tuple[Coordinate, Coordinate, str]:
    attrs: dict[str, Any] = dict(array.attrs)
    size = attrs.get("voxel_size", attrs.get("resolution"))
    if size is not None:
        units = attrs.get("units", [])
        unit = _one_unit([units] if isinstance(units, str) else units, path)
        voxel_size, base = to_world(size[-3:], unit, f"voxel_size of {path}", positive=True)
        offset, _ = to_world(attrs.get("offset", [0, 0, 0])[-3:], unit, f"offset of {path}")
        return voxel_size, offset, base
    if multiscales is None:
        raise InputError(
            f"{path} says nothing about its voxel size (neither `voxel_size` on the array nor OME "
            "multiscales on its group); import it with pipelines/prepare.py, or set the "
            "attribute `voxel_size` (z, y, x in nm)"
        )
    scale, translation = [1.0, 1.0, 1.0], None
    transforms = [
        *multiscales["datasets"][0].get("coordinateTransformations", []),
        *multiscales.get("coordinateTransformations", []),
    ]
    for transform in transforms:
        if transform["type"] == "scale":
            factors = transform["scale"][-3:]
            scale = [s * f for s, f in zip(scale, factors, strict=True)]
            if translation is not None:
                translation = [t * f for t, f in zip(translation, factors, strict=True)]
        elif transform["type"] == "translation":
            steps = transform["translation"][-3:]
            translation = [t + s for t, s in zip(translation or [0.0] * 3, steps, strict=True)]
    unit = _one_unit([a.get("unit") for a in multiscales.get("axes", [])], path)
    voxel_size, base = to_world(scale, unit, f"voxel size of {path}", positive=True)
    corner = [0.0] * 3
    if translation is not None:  # the centre of the first voxel
        corner = [t - s / 2 for t, s in zip(translation, scale, strict=True)]
    # half a voxel may be whole in a finer unit only
    for finer in [u for u in NANOMETERS if NANOMETERS[u] <= NANOMETERS[base]]:
        ratio = NANOMETERS[_UNIT_ALIASES[unit.lower()][0]] / NANOMETERS[finer]
        ratio *= _UNIT_ALIASES[unit.lower()][1]
        fine = [round(c * ratio, 6) for c in corner]
        if all(c == round(c) for c in fine):
            ratio = round(NANOMETERS[base] / NANOMETERS[finer])
            return voxel_size * ratio, Coordinate(int(c) for c in fine), finer
    offset, _ = to_world(corner, unit, f"offset of {path} (OME translation less half a voxel)")
    return voxel_size, offset, base


def _one_unit(units: Sequence[str | None], path: str) -> str:
    found = [u for u in units[-3:] if u]
    if len({_UNIT_ALIASES.get(u.lower(), u) for u in found}) > 1:
        raise InputError(f"{path} has axes in different units, {', '.join(found)}; one is expected")
    return found[-1] if found else "nm"


def check_complete(image: Image) -> None:
    """Refuse an array that synpol began to write and did not finish.

    Raises
    ------
    InputError
    """
    if HASH in image.array.attrs and not image.array.attrs.get(COMPLETE):
        raise InputError(
            f"{image.path} is unfinished: what writes it was interrupted; run that again first "
            "(pipelines/prepare.py for raw and truth, pipelines/predict_blockwise.py for polarity "
            "and instances)"
        )


def create_image(
    container: str | os.PathLike[str],
    name: str,
    *,
    shape: Sequence[int],
    dtype: DTypeLike,
    voxel_size: Sequence[int],
    offset: Sequence[int],
    unit: str,
    chunk_shape: Sequence[int],
    shard_shape: Sequence[int] | None = None,
    attributes: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Image:
    """Create ``container/name/s0`` as an OME-Zarr 0.5 image, all zeros.

    Parameters
    ----------
    container : path or URL
        A group, made when it is missing.
    name : str
        Of the image, for instance ``raw``.
    shape, chunk_shape, shard_shape : sequence of int
        ``(z, y, x)`` or ``(channel, z, y, x)``, voxels. With shards, `chunk_shape` is what is read
        at once and `shard_shape` what one file holds.
    dtype : dtype
    voxel_size, offset : sequence of int
        In `unit`; z, y, x; the offset is the corner of the first voxel.
    unit : {"nm", "angstrom", "pm"}
    attributes : mapping, optional
        More attributes for the array.
    overwrite : bool
        Replace what is there; otherwise an existing image is an error.

    Returns
    -------
    Image

    Raises
    ------
    InputError
        The image exists already, the container is of Zarr v2, or the place cannot be written.
    """
    group_path = join(container, name)
    if _opened(container, 2) is not None and _opened(container, 3) is None:
        raise InputError(
            f"{container} is a Zarr v2 group, and synpol writes Zarr v3, which would hide what is "
            "in it; give another path"
        )
    metadata: dict[str, Any] = {"ome": _ome(name, len(shape) == 3, voxel_size, offset, unit)}
    spatial = len(shape) == 3
    types = ["space"] * 3 if spatial else ["channel", *["space"] * 3]
    placement: dict[str, Any] = {
        "voxel_size": [int(v) for v in voxel_size],
        "offset": [int(v) for v in offset],
        "axis_names": ["z", "y", "x"] if spatial else ["c^", "z", "y", "x"],
        "units": [unit] * 3,
        "types": types,
    }
    try:
        zarr.open_group(str(container), mode="a", zarr_format=3)
        group = zarr.open_group(
            group_path,
            mode="w" if overwrite else "a" if _half_made(group_path) else "w-",
            zarr_format=3,
            attributes=metadata,
        )
        group.update_attributes(metadata)  # of one that was half made
        array = group.create_array(
            "s0",
            shape=tuple(int(s) for s in shape),
            dtype=np.dtype(dtype),
            chunks=tuple(int(c) for c in chunk_shape),
            shards=None if shard_shape is None else tuple(int(s) for s in shard_shape),
            compressors=ZstdCodec(level=1),
            fill_value=0,
            dimension_names=["z", "y", "x"] if spatial else ["c", "z", "y", "x"],
            attributes={**placement, **(attributes or {})},
        )
    except (FileExistsError, zarr.errors.ContainsGroupError, zarr.errors.ContainsArrayError) as e:
        raise InputError(f"{group_path} exists already; remove it or give another path") from e
    except OSError as error:
        raise InputError(f"{group_path} cannot be written: {error}") from error
    return Image(join(group_path, "s0"), array, Coordinate(voxel_size), Coordinate(offset), unit)


def _opened(path: str | os.PathLike[str], zarr_format: Literal[2, 3]) -> zarr.Group | None:
    try:
        return zarr.open_group(str(path), mode="r", zarr_format=zarr_format)
    except (FileNotFoundError, ValueError, OSError, zarr.errors.NodeNotFoundError):
        return None


def _half_made(path: str) -> bool:
    """Whether an interruption left an image of ours there without its array."""
    group = _opened(path, 3)
    found = None if group is None else _multiscales(group.attrs)
    if group is None or found is None or found["datasets"][0]["path"] != "s0":
        return False
    return next(iter(group.members()), None) is None


def _ome(
    name: str, spatial: bool, voxel_size: Sequence[int], offset: Sequence[int], unit: str
) -> dict[str, Any]:
    lead = [] if spatial else [1.0]
    channel = [] if spatial else [{"name": "c", "type": "channel"}]
    space = [{"name": a, "type": "space", "unit": _OME_NAME[unit]} for a in "zyx"]
    centre = [o + v / 2 for o, v in zip(offset, voxel_size, strict=True)]
    transforms = [
        {"type": "scale", "scale": [*lead, *(float(v) for v in voxel_size)]},
        {"type": "translation", "translation": [*([0.0] * len(lead)), *centre]},
    ]
    return {
        "version": "0.5",
        "multiscales": [
            {
                "name": name,
                "axes": [*channel, *space],
                "datasets": [{"path": "s0", "coordinateTransformations": transforms}],
            }
        ],
    }


def check_writable(folder: str | os.PathLike[str]) -> None:
    """Make a local folder and refuse one that cannot be written, before any work is done.

    Raises
    ------
    InputError
        The folder cannot be made, or nothing can be written in it (read-only, full).
    """
    if is_url(folder):
        return
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:  # leaves nothing if killed
            probe.write(b"synpol" * 1000)
            probe.flush()
    except OSError as error:
        raise InputError(
            f"the output folder {folder} cannot be written: {error.strerror}"
        ) from None
