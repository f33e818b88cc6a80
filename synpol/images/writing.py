"""Making images on disk, and their coarser levels."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
import zarr.errors
from funlib.geometry import Coordinate
from numpy.typing import DTypeLike
from zarr.codecs import ZstdCodec

from synpol.errors import InputError
from synpol.files import is_url, join, sync_together
from synpol.images.blocks import folder_of, partials
from synpol.images.claim import (
    COMPLETE,
    half_made,
    has_damaged_metadata,
    is_damaged,
    set_aside,
)
from synpol.images.image import Image
from synpol.images.metadata import UNPLACED
from synpol.images.nodes import opened_group
from synpol.images.ome import multiscale_of, ome_level, ome_metadata
from synpol.images.run_id import check_records, forget_id
from synpol.images.view import View


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
    placed: bool = True,
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
    unit : {"nm", "angstrom", "pm", "fm"}
    attributes : mapping, optional
        More attributes for the array.
    placed : bool
        False where the offset is told by nobody; see `Image.placed`.
    overwrite : bool
        Replace what is there; otherwise an existing image is an error.

    Returns
    -------
    Image

    Raises
    ------
    InputError
        The image exists already, the container is of Zarr v2, or the place cannot be written.

    Examples
    --------
    >>> import numpy as np
    >>> image = create_image(
    ...     "volume",
    ...     "raw",
    ...     shape=(16, 64, 64),
    ...     dtype=np.uint8,
    ...     voxel_size=(30, 8, 8),
    ...     offset=(0, 0, 0),
    ...     unit="nm",
    ...     chunk_shape=(16, 32, 32),
    ... )
    >>> image.array[:4] = 128
    >>> int(image.array[3, 0, 0]), int(image.array[4, 0, 0])
    (128, 0)
    """
    group_path = join(container, name)
    if opened_group(container, 2) is not None and opened_group(container, 3) is None:
        raise InputError(
            f"{container} is a Zarr v2 group, and synpol writes Zarr v3, which would hide what is "
            "in it; give another path"
        )
    spatial = len(shape) == 3
    metadata: dict[str, Any] = {"ome": ome_metadata(name, spatial, voxel_size, offset, unit)}
    try:
        if is_damaged(group_path):
            set_aside(Path(group_path))
        _open_container(container)
        replace = overwrite or half_made(group_path)
        if replace:
            _remove_arrays(group_path)
        group = zarr.open_group(
            group_path,
            mode="w" if replace else "w-",
            zarr_format=3,
            attributes=metadata,
        )
        image = _create_array(
            group,
            join(group_path, "s0"),
            shape=shape,
            dtype=dtype,
            voxel_size=voxel_size,
            offset=offset,
            unit=unit,
            chunk_shape=chunk_shape,
            shard_shape=shard_shape,
            attributes={**(attributes or {}), **_place(placed)},
        )
    except (FileExistsError, zarr.errors.ContainsGroupError, zarr.errors.ContainsArrayError) as e:
        raise InputError(f"{group_path} exists already; remove it or give another path") from e
    except OSError as error:
        raise InputError(f"{group_path} cannot be written: {_said(error)}") from error
    return image if placed else dataclasses.replace(image, placed=False)


def _said(error: OSError) -> str:
    """Say what the system said, and what to do where NFS keeps removed files that are open."""
    if error.errno not in (errno.ENOTEMPTY, errno.EBUSY):
        return str(error)
    return (
        f"{error}. A program on this machine has files of the old image open, and NFS keeps them "
        "until they are closed: end what reads it (a viewer, a notebook), and run this again"
    )


def _open_container(container: str | os.PathLike[str]) -> None:
    """Make a group to write images in, where there is none that can be opened."""
    if not is_url(container) and has_damaged_metadata(Path(container)):
        set_aside(Path(container, "zarr.json"))
    zarr.open_group(str(container), mode="a", zarr_format=3)


def _place(placed: bool) -> dict[str, Any]:
    """The attribute of an array whose offset is told by nobody."""
    return {} if placed else {UNPLACED: True}


def _remove_arrays(path: str) -> None:
    """Remove the arrays of a local image such that a kill leaves what `half_made` recognises.

    zarr alone removes files in any order, and chunks of an array whose metadata are gone would turn
    up in the next array of that name.
    """
    if is_url(path) or not Path(path).is_dir():
        return
    for folder in Path(path).iterdir():
        if folder.is_dir() and not folder.is_symlink():
            (folder / "zarr.json").unlink(missing_ok=True)
            shutil.rmtree(folder)


def _create_array(
    group: zarr.Group,
    path: str,
    *,
    shape: Sequence[int],
    dtype: DTypeLike,
    voxel_size: Sequence[int],
    offset: Sequence[int],
    unit: str,
    chunk_shape: Sequence[int],
    shard_shape: Sequence[int] | None,
    attributes: Mapping[str, Any] | None,
    overwrite: bool = False,
) -> Image:
    """Create an array at `path`, which is in `group`; parameters as in `create_image`."""
    spatial = len(shape) == 3
    about: dict[str, Any] = {
        "voxel_size": [int(v) for v in voxel_size],
        "offset": [int(v) for v in offset],
        "axis_names": ["z", "y", "x"] if spatial else ["c^", "z", "y", "x"],
        "units": [unit] * 3,
        "types": ["space"] * 3 if spatial else ["channel", *["space"] * 3],
    }
    array = group.create_array(
        path.rpartition("/")[2],
        shape=tuple(int(s) for s in shape),
        dtype=np.dtype(dtype),
        chunks=tuple(int(c) for c in chunk_shape),
        shards=None if shard_shape is None else tuple(int(s) for s in shard_shape),
        compressors=ZstdCodec(level=1, checksum=True),
        fill_value=0,
        dimension_names=["z", "y", "x"] if spatial else ["c", "z", "y", "x"],
        attributes={**about, **(attributes or {})},
        overwrite=overwrite,
    )
    return Image(path, array, Coordinate(voxel_size), Coordinate(offset), unit)


def image_group(image: Image) -> zarr.Group:
    """The OME-Zarr 0.5 group whose full resolution an image is, to be written.

    Raises
    ------
    InputError
        It is of an older version, the array stands alone, or metadata are consolidated.
    """
    path, _, name = image.path.rpartition("/")
    if isinstance(image.array, View) and not image.array.layout.is_plain:
        raise InputError(
            f"{image.path} is stored in another way than it is read (axes), so it cannot get "
            "coarser levels; pipelines/prepare.py of synpol's repository imports it"
        )
    group = opened_group(path, 3, "r+") if path else None
    found = None if group is None else multiscale_of(group.attrs, path)
    if group is None or found is None or found.paths[0] != name:
        raise InputError(
            f"{image.path} is not the full resolution of an OME-Zarr 0.5 image, so it cannot get "
            "coarser levels; pipelines/prepare.py of synpol's repository imports it as one"
        )
    if group.metadata.consolidated_metadata is not None:
        raise InputError(
            f"{path} has consolidated metadata, which would not know of coarser levels; "
            "consolidate it anew when they are there, and remove that first"
        )
    return group


def create_level(
    image: Image,
    name: str,
    factors: Sequence[int],
    *,
    chunk_shape: Sequence[int],
    shard_shape: Sequence[int],
    attributes: Mapping[str, Any],
) -> Image:
    """Create a coarser level of an image, all zeros; one of this name is replaced.

    Parameters
    ----------
    image : Image
        The full resolution.
    name : str
        Of the array, for instance ``s1``.
    factors : 3 ints
        Voxels of the image that make one of the level, along z, y, x.
    chunk_shape, shard_shape, attributes
        As in `create_image`.

    Returns
    -------
    Image

    Raises
    ------
    InputError
        As `image_group`, or it cannot be written.
    """
    group = image_group(image)
    spatial = [-(-s // f) for s, f in zip(image.shape_vx, factors, strict=True)]
    try:
        return _create_array(
            group,
            join(image.path.rpartition("/")[0], name),
            shape=[*image.array.shape[:-3], *spatial],
            dtype=image.array.dtype,
            voxel_size=image.voxel_size * Coordinate(factors),
            offset=image.offset,
            unit=image.unit,
            chunk_shape=chunk_shape,
            shard_shape=shard_shape,
            attributes={**attributes, **_place(image.placed)},
            overwrite=True,
        )
    except OSError as error:
        raise InputError(f"{image.path} cannot get coarser levels: {_said(error)}") from error


def list_levels(image: Image, levels: Mapping[str, Sequence[int]]) -> None:
    """Say in an image's metadata which coarser levels it has.

    Parameters
    ----------
    image : Image
        The full resolution.
    levels : mapping of str to 3 ints
        Names of their arrays, finest first, and voxels of the image that make one of theirs.
    """
    group = image_group(image)
    ome: Any = group.attrs["ome"]
    first, *others = ome["multiscales"]
    full = first["datasets"][0]
    coarser = [ome_level(full, name, factors) for name, factors in levels.items()]
    first = {**first, "datasets": [full, *coarser]}
    group.update_attributes({"ome": {**ome, "multiscales": [first, *others]}})


def complete(image: Image, records: Path | None = None) -> None:
    """Mark an image of ours as finished, with metadata that a power cut cannot take away.

    Parameters
    ----------
    image : Image
    records : Path, optional
        Folder of the records of its blocks, if they are bound to it; see `bind_records`.

    Raises
    ------
    InputError
        The image was removed or replaced while it was written.
    """
    if records is not None:
        check_records(image, records)
    image.array.update_attributes({COMPLETE: True})
    forget_id(image, records)
    root = folder_of(image.array)
    if root is not None:
        folders = (root, root.parent, root.parent.parent)
        sync_together([*(folder / "zarr.json" for folder in folders), *folders])
        for folder in folders:  # what killed writers left of metadata
            for left in partials(folder):
                if left.name.startswith("zarr."):
                    left.unlink(missing_ok=True)


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


def inner_chunks(block: Sequence[int]) -> tuple[int, ...]:
    """Chunks within a block-sized shard: the largest divisor of each side up to 128.

    A side without a divisor from 32 on stays whole, so that no prime side leaves slivers.
    """
    largest = [max(d for d in range(1, min(128, b) + 1) if b % d == 0) for b in block]
    return tuple(d if d >= min(32, b) else b for d, b in zip(largest, block, strict=True))
