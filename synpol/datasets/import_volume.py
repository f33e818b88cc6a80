"""Conversion of a volume of another format to OME-Zarr, section by section.

Only two slabs of sections, one chunk deep, are in memory at a time: one is read while the other is
written. An import that was interrupted goes on after the last slab that it noted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from funlib.geometry import Coordinate
from tqdm import tqdm

from synpol.config import ImportVolume
from synpol.errors import InputError
from synpol.files import is_url
from synpol.formats import Stack, keys_of, open_stack, reading
from synpol.formats.axes import Choice
from synpol.formats.calibration import Calibration, resolved
from synpol.images.blocks import write_block
from synpol.images.claim import Answer, begun, claim_image
from synpol.images.identity import hash_of
from synpol.images.image import Image
from synpol.images.world import whole_placement
from synpol.images.writing import check_writable, complete, create_image

CHUNK = (16, 128, 128)
#: attribute of an unfinished import: how many of its sections are written
_DONE = "synpol_sections"
#: seconds between two notes of it
_NOTED_EVERY = 5.0
#: bytes of a slab up to which the next one is read while it is written
_READ_AHEAD = 2**28
#: keys whose default says that nothing is changed; only others stand in a digest, as in old ones
_LATER_KEYS = ("anonymous", "axes", "channel", "time", "fill_missing", "ignore_metadata")


@dataclass(frozen=True)
class _Plan:
    """What an import writes.

    Attributes
    ----------
    first, last : int
        First section of the source, and one past the last.
    shape : tuple of int
    dtype : dtype
    voxel_size, offset : Coordinate
    unit : str
    shrink : int
        Factor in plane by which the source is larger.
    digest : str
        Hash of the source and of what is done with it.
    """

    first: int
    last: int
    shape: tuple[int, ...]
    dtype: np.dtype
    voxel_size: Coordinate
    offset: Coordinate
    unit: str
    shrink: int
    digest: str


def all_volumes(volume: ImportVolume) -> list[ImportVolume]:
    """List the imports that one entry of a config asks for.

    With ``key: '*'`` every volume of an HDF5 file is imported below `output`, under the last part
    of its key, such as raw, clefts and neuron_ids of a CREMI file. Those that lie in a group of
    labels are labels.

    Raises
    ------
    InputError
        Two volumes would get one name.
    """
    keys = [] if volume.key != "*" else keys_of(volume.source)
    if not keys:
        return [volume]
    names = [key.rpartition("/")[2] for key in keys]
    if len(set(names)) < len(names):
        raise InputError(
            f"{volume.source} has several volumes of one name ({', '.join(keys)}); import each by "
            "its own `key`"
        )
    found = []
    for key, name in zip(keys, names, strict=True):
        update: dict[str, Any] = {"key": key, "output": f"{volume.output.rstrip('/')}/{name}"}
        if "label" in key.lower():
            update["kind"] = "labels"
        found.append(volume.model_copy(update=update))
    return found


def import_volume(volume: ImportVolume) -> Image:
    """Convert one volume into ``output`` as OME-Zarr; what is there already is left alone.

    Raises
    ------
    InputError
        The source cannot be read, its voxel size is not known, or `output` exists and is something
        else.
    """
    choice = Choice(
        volume.kind,
        volume.channel,
        volume.time,
        volume.axes,
        volume.fill_missing,
        volume.anonymous,
    )
    with closing(open_stack(volume.source, volume.key, choice)) as stack:
        plan = _plan(volume, stack)
        claim = claim_image(volume.output, plan.digest)
        if claim.found is not None and claim.answer is Answer.FINISHED:
            return claim.found
        stack.check_slab(min(CHUNK[0], plan.last - plan.first))
        image = claim.image_to_write(lambda replace: _created(volume, plan, replace))
        _write(image, volume, stack, plan)
    complete(image)
    return image


def _write(image: Image, volume: ImportVolume, stack: Stack, plan: _Plan) -> None:
    """Write all sections that an earlier, interrupted import did not note as written."""
    attributes: dict[str, Any] = dict(image.array.attrs)
    done = int(attributes.get(_DONE, 0))
    noted = time.monotonic()
    bar = tqdm(
        total=plan.last - plan.first,
        initial=done,
        desc=f"import {volume.source}",
        unit="section",
        mininterval=0.5,
    )
    with bar:
        for begin, end, slab in _slabs(stack, plan, done):
            values = converted(slab, volume, plan.dtype, begin + plan.first)
            where = (slice(begin, end), *(slice(0, n) for n in plan.shape[-2:]))
            write_block(image.array, where, values)
            bar.update(end - begin)
            if time.monotonic() - noted > _NOTED_EVERY:
                image.array.update_attributes({_DONE: end})
                noted = time.monotonic()
    if _DONE in image.array.attrs:
        del image.array.attrs[_DONE]


def _plan(volume: ImportVolume, stack: Stack) -> _Plan:
    """Find what is to be written.

    Raises
    ------
    InputError
    """
    *lead, depth, height, width = stack.shape
    first, last = volume.sections or (0, depth)
    if not 0 <= first < last <= depth:
        raise InputError(
            f"sections is [{first}, {last}], but {volume.source} has {depth} sections; "
            f"0 <= first < last <= {depth} is expected"
        )
    if (volume.kind == "polarity") != bool(lead):
        raise InputError(
            f"{volume.source} has the shape {tuple(stack.shape)}, which is no volume of the "
            f"kind {volume.kind}; set `kind` to what it is"
        )
    shrink = volume.downsample
    shape = (*lead, last - first, height // shrink, width // shrink)
    if min(shape) < 1:
        raise InputError(
            f"downsample is {shrink}, but the sections of {volume.source} have only "
            f"{height} x {width} pixels; give a smaller factor"
        )
    with reading(volume.source, stack.name):
        said = Calibration() if volume.ignore_metadata else stack.calibration()
    given = volume.model_fields_set
    size, offset, unit = resolved(
        volume.source,
        said,
        volume.voxel_size,
        volume.offset if "offset" in given else None,
        volume.unit if "unit" in given else None,
    )
    about = [size, offset, unit or "nm"]
    size = [v * f for v, f in zip(size, (1, shrink, shrink), strict=True)]
    placement = whole_placement(size, offset, unit or "nm", volume.source)
    return _Plan(
        first,
        last,
        shape,
        _dtype_of(stack.dtype, volume),
        placement.voxel_size,
        placement.offset,
        placement.unit,
        shrink,
        _digest(volume, stack, about),
    )


def _dtype_of(stored: np.dtype, volume: ImportVolume) -> np.dtype:
    """Return the type in which values are written."""
    if stored.kind == "b":
        return np.dtype(np.uint8)
    if volume.kind == "labels" and stored.kind == "f":
        return np.dtype(np.uint64 if stored.itemsize > 4 else np.uint32)
    if volume.kind == "polarity" and stored != np.uint8 and stored.kind != "f":
        raise InputError(
            f"{volume.source} is {stored}; a prediction is uint8 (0..255) or float (0..1)"
        )
    return np.dtype(f"{stored.kind}{stored.itemsize}")  # in this machine's byte order


def _digest(volume: ImportVolume, stack: Stack, place: list[Any]) -> str:
    """Hash of a source and of what is done with it; older ones stay as they were."""
    about = volume.model_dump(mode="json")
    for key in _LATER_KEYS:
        if about[key] == ImportVolume.model_fields[key].default:
            del about[key]
    about["voxel_size"], about["offset"], about["unit"] = place
    source = Path(volume.source)
    files = [] if is_url(volume.source) else type(stack).parts(source)
    made_of: list[Any] = [[f.name, f.stat().st_mtime_ns, f.stat().st_size] for f in files]
    return hash_of([about, made_of, *([stack.read_as] if stack.read_as else [])])


def _slabs(stack: Stack, plan: _Plan, done: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """Read slabs of sections one ahead; gives first, last, values."""
    count = plan.last - plan.first
    ranges = [(b, min(b + CHUNK[0], count)) for b in range(done, count, CHUNK[0])]
    slab_bytes = math.prod(plan.shape) // count * CHUNK[0] * stack.dtype.itemsize

    def read(number: int) -> Future[np.ndarray]:
        begin, end = ranges[number]
        return pool.submit(stack.read, plan.first + begin, plan.first + end)

    with ThreadPoolExecutor(1) as pool:
        ahead = read(0) if ranges else None
        for number, (begin, end) in enumerate(ranges):
            slab = (ahead or read(number)).result()
            is_small = slab_bytes * plan.shrink**2 <= _READ_AHEAD
            ahead = read(number + 1) if is_small and number + 1 < len(ranges) else None
            yield begin, end, slab


def _created(volume: ImportVolume, plan: _Plan, replace: bool) -> Image:
    container, _, name = volume.output.rstrip("/").rpartition("/")
    if not is_url(volume.output):
        place = Path(volume.output)
        container, name = str(place.parent), place.name
    check_writable(container)
    chunks = [min(c, s) for c, s in zip(CHUNK, plan.shape[-3:], strict=True)]
    return create_image(
        container,
        name,
        shape=plan.shape,
        dtype=plan.dtype,
        voxel_size=plan.voxel_size,
        offset=plan.offset,
        unit=plan.unit,
        chunk_shape=[*plan.shape[:-3], *chunks],
        attributes=begun(plan.digest),
        overwrite=replace,
    )


def converted(slab: np.ndarray, volume: ImportVolume, dtype: np.dtype, first: int) -> np.ndarray:
    """Shrink sections and bring them to the type that is written.

    Parameters
    ----------
    slab : (z, y, x) or (channel, z, y, x) array
    volume : ImportVolume
    dtype : dtype
    first : int
        Number of the first section, for messages.

    Raises
    ------
    InputError
        Labels that are no whole numbers.
    """
    if volume.kind == "labels" and slab.dtype.kind == "f":
        wrong = ~((slab >= 0) & (slab == np.rint(slab)) & (slab < np.iinfo(dtype).max))
        if wrong.any():
            z = int(np.argwhere(wrong)[0][0])
            raise InputError(
                f"{volume.source} holds {slab[wrong][0]:g} in section {first + z}; labels are "
                "whole numbers from 0 on: save it as integers, or set `kind: image`"
            )
    return downsampled(slab, volume.downsample, volume.kind).astype(dtype, copy=False)


def downsampled(slab: np.ndarray, factor: int, kind: str) -> np.ndarray:
    """Shrink sections in plane.

    Parameters
    ----------
    slab : (..., y, x) array
    factor : int
        Pixels along each edge of a box that becomes one pixel. A rest at the far edges is cut off.
    kind : {"image", "labels", "polarity"}
        Images are averaged. Labels keep the one in the middle of each box, so no id is invented.
    """
    if factor == 1:
        return slab
    *lead, y, x = slab.shape
    boxes = slab[..., : y // factor * factor, : x // factor * factor].reshape(
        *lead, y // factor, factor, x // factor, factor
    )
    if kind == "labels":
        return boxes[..., factor // 2, :, factor // 2]
    mean = boxes.mean(axis=(-3, -1))
    return np.rint(mean) if slab.dtype.kind in "uib" else mean


def describe_volume(image: Image) -> str:
    """Describe an image in one line, for people."""
    shape = " x ".join(str(s) for s in image.array.shape)
    size = " x ".join(f"{v:g}" for v in image.voxel_size_nm)
    return f"{image.path}: {shape} voxels of {size} nm, {image.array.dtype}"
