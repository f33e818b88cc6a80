"""Read voxels, and name the file that is damaged where they cannot be read."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from synpol.errors import InputError, is_of_content
from synpol.files import join
from synpol.images.metadata import HASH
from synpol.images.stores import is_of_client

if TYPE_CHECKING:
    from synpol.config import ImageSource


def read_voxels(array: Any, where: Any, source: str | ImageSource) -> np.ndarray:
    """Read a region of an array.

    Parameters
    ----------
    array : zarr.Array or View
        Array to read from.
    where : tuple of slices
        Region, as NumPy takes it.
    source : str or ImageSource
        Path or URL of the array, or the mapping that names it, for the message.

    Raises
    ------
    InputError
        A chunk is damaged: its bytes do not decode, or do not have their checksum.
    """
    try:
        return np.asarray(array[where])
    except InputError:
        raise
    except Exception as error:
        if is_fault(error):  # it may be over soon; the block is tried again
            raise
        name = damaged_chunk(array, where)
        if name is None:
            raise
        path = source if isinstance(source, str) else source.path
        raise InputError(
            f"{join(path, name)} is damaged ({error!s:.300}). {way_on(array)}"
        ) from error


def damaged_chunk(array: Any, where: Any) -> str | None:
    """Find the first chunk file of a region that cannot be read; of a view its voxels."""
    return next(damaged_chunks(array, where), None)


def damaged_chunks(array: Any, where: Any) -> Iterator[str]:
    """Find every chunk file of a region that cannot be read; of a view its voxels."""
    cell = getattr(array, "shards", None) or array.chunks
    for index in itertools.product(*_cells(where, array.shape, cell)):
        box = tuple(slice(i * s, (i + 1) * s) for i, s in zip(index, cell, strict=True))
        if not _reads(array, box):
            if hasattr(array, "metadata"):
                yield str(array.metadata.encode_chunk_key(index))
            else:
                yield f"[{', '.join(f'{b.start}:{b.stop}' for b in box)}]"


def _cells(where: Any, shape: Sequence[int], cell: Sequence[int]) -> list[range]:
    given = list(where) if isinstance(where, tuple) else [where]
    if any(one is Ellipsis for one in given):
        at = next(k for k, one in enumerate(given) if one is Ellipsis)
        given[at : at + 1] = [slice(None)] * (len(shape) - len(given) + 1)
    given += [slice(None)] * (len(shape) - len(given))
    ranges = []
    for one, length, size in zip(given, shape, cell, strict=True):
        begin, end = (one, one + 1) if isinstance(one, int) else one.indices(length)[:2]
        ranges.append(range(begin // size, -(-end // size)))
    return ranges


def _reads(array: Any, box: tuple[slice, ...]) -> bool:
    try:
        np.asarray(array[box])
    except Exception as error:
        return is_fault(error)
    return True


def is_fault(error: Exception) -> bool:
    """Whether an error is of the file system or of a server, and not of the content of a chunk."""
    if is_of_client(error):
        return True
    return isinstance(error, OSError) and not is_of_content(error)


def way_on(array: Any) -> str:
    """Say what to do about a damaged chunk."""
    if HASH in getattr(array, "attrs", {}):
        return (
            "Run the command that wrote it again with --fresh (prepare.py: remove the image first)"
        )
    return "Copy the image anew from where it came"
