"""Tell an unfinished array from another one in its place, so that records speak of it alone.

Records of blocks lie in a work folder, the array elsewhere. Somebody may remove the array, put a
copy in its place, or let a run with another work folder begin it anew: the records would then speak
of voxels that are not there. So an unfinished array has a random id, which its records have too.

The id lies in a file of its own inside the array and is removed when the array is finished. In the
attributes it would make two results of the same input differ; and a finished array needs none, as
equal input gives equal bytes.
"""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

import zarr
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import StorePath

from synpol.errors import InputError
from synpol.files import write_text
from synpol.images.claim import COMPLETE, ID
from synpol.images.image import Image
from synpol.images.nodes import opened_array


def bind_records(image: Image, records: Path) -> None:
    """Give an unfinished array and its records the same id; records of another array are removed.

    Parameters
    ----------
    image : Image
        Array to write, local or remote.
    records : Path
        Folder of the records of its blocks.
    """
    if image.array.attrs.get(COMPLETE):
        return
    mine, noted = _id_of(image.array), _noted(records)
    if mine is not None and mine == noted:
        return
    if mine is not None or noted is not None:  # neither: of a version of synpol without ids
        shutil.rmtree(records, ignore_errors=True)
    known = mine or uuid.uuid4().hex
    sync(_place(image.array).set(_buffer(known)))
    write_text(records / ID, known)


def check_records(image: Image, records: Path) -> None:
    """Refuse to finish an array that is not the one for which the records were written.

    Raises
    ------
    InputError
        The array was removed or replaced while it was written.
    """
    now = opened_array(image.path)
    finished = now is not None and now.attrs.get(COMPLETE) and image.array.attrs.get(COMPLETE)
    if now is None or (not finished and _id_of(now) != _noted(records)):
        raise InputError(
            f"{image.path} was removed or replaced while it was written, so blocks of it are "
            "missing; see that nothing else writes or removes it, remove what is left of "
            f"{image.path.rpartition('/')[0]}, and run this again"
        )


def forget_id(image: Image, records: Path | None) -> None:
    """Remove the id of an array that is finished, and of its records."""
    sync(_place(image.array).delete())
    if records is not None:
        (records / ID).unlink(missing_ok=True)


def forget_leftover(array: zarr.Array) -> None:
    """Remove the id of a finished array whose run ended before it had done so."""
    if _id_of(array) is not None:
        place = _place(array)
        sync(StorePath(place.store.with_read_only(False), place.path).delete())


def _id_of(array: zarr.Array) -> str | None:
    found = sync(_place(array).get(prototype=default_buffer_prototype()))
    return None if found is None else found.to_bytes().decode(errors="replace")


def _noted(records: Path) -> str | None:
    try:
        return (records / ID).read_text(errors="replace")
    except FileNotFoundError:
        return None


def _place(array: zarr.Array) -> StorePath:
    return array.store_path / ID


def _buffer(text: str) -> Buffer:
    return default_buffer_prototype().buffer.from_bytes(text.encode())
