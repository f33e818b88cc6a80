"""Write blocks of an array, and tell how large the files of a block are."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore

from synpol.files import sync_together
from synpol.images.shards import codec_of_shards, encode_shard
from synpol.images.sparse import SparseBlock


def write_block(
    array: zarr.Array, where: Sequence[slice], values: np.ndarray | SparseBlock | None
) -> None:
    """Write a region of whole chunks (shards) to the disk; remove what a killed writer left of it.

    zarr writes a file under a temporary name first; nobody else takes away the one of a process
    that was killed meanwhile.

    Parameters
    ----------
    array : zarr.Array
    where : 3 slices
        A region along z, y, x, which nobody else writes; of all channels.
    values : array, SparseBlock or None
        None: all zeros, which are not stored.
    """
    root = folder_of(array)
    where = (*[slice(None)] * (array.ndim - len(where)), *where)
    if root is not None:
        *lead, last = _cells(array, where)
        for index in itertools.product(*lead):
            file = root / array.metadata.encode_chunk_key((*index, 0))
            for left in partials(file.parent):
                number = left.name.partition(".")[0]
                if number.isdigit() and int(number) in last:
                    left.unlink(missing_ok=True)
        if values is None:  # of an earlier attempt, or put there by others
            for index in itertools.product(*lead, last):
                (root / array.metadata.encode_chunk_key(index)).unlink(missing_ok=True)
    if isinstance(values, SparseBlock):
        _write_sparse(array, where, values)
    elif values is not None:
        array[where] = values
    _sync(array, where)  # else a power cut might leave the record of what is not there


def _write_sparse(array: zarr.Array, where: Sequence[slice], block: SparseBlock) -> None:
    """Write a region; chunks of zeros take no time where the region is a shard of synpol's own."""
    cells, codec = list(itertools.product(*_cells(array, where))), codec_of_shards(array)
    if codec is None or array.shards is None or len(cells) != 1:
        array[*where] = block.dense()
        return
    shard = encode_shard(block, array.shards, array.chunks, codec)
    place = array.store_path / array.metadata.encode_chunk_key(cells[0])
    sync(place.set(default_buffer_prototype().buffer.from_bytes(shard)))


def stored_sizes(array: zarr.Array, where: Sequence[slice]) -> np.ndarray | None:
    """Return the bytes of each file that holds a region.

    Parameters
    ----------
    array : zarr.Array
        Array in Zarr v3 format.
    where : 3 slices
        Region along z, y, x; of all channels.

    Returns
    -------
    (n,) int64 array or None
        In C order of the files' chunk indices, -1 for a file that is not there; None where the
        array is not on a local disk, or a file holds more than the region.
    """
    root = folder_of(array)
    where = (*[slice(None)] * (array.ndim - len(where)), *where)
    for w, length, unit in zip(where, array.shape, array.shards or array.chunks, strict=True):
        begin, end, _ = w.indices(length)
        if begin % unit or (end % unit and end != length):
            return None
    if root is None:
        return None
    sizes = []
    for file in files_of(array, root, where):
        try:
            sizes.append(os.stat(file).st_size)
        except FileNotFoundError:
            sizes.append(-1)
    return np.array(sizes, np.int64)


def _sync(array: zarr.Array, where: Sequence[slice]) -> None:
    """Wait until a power cut cannot take the files of a region away, content and names."""
    root = folder_of(array)
    if root is None:
        return
    files = files_of(array, root, where)
    folders = {folder for file in files for folder in file.parents if folder.is_relative_to(root)}
    sync_together([*files, *folders])


def files_of(array: zarr.Array, root: Path, where: Sequence[slice]) -> list[Path]:
    """Return the files that hold a region, in C order, whether or not they are there.

    Parameters
    ----------
    array : zarr.Array
    root : Path
        Folder of the array.
    where : sequence of slices
        Region; along z, y, x, of all channels, or along all axes.
    """
    where = (*[slice(None)] * (array.ndim - len(where)), *where)
    cells = itertools.product(*_cells(array, where))
    return [root / array.metadata.encode_chunk_key(index) for index in cells]


def _cells(array: zarr.Array, where: Sequence[slice]) -> list[range]:
    """Return the indices of the files (chunks, or shards) of a region, along each axis."""
    unit = array.shards or array.chunks
    ends = (w.indices(n)[:2] for w, n in zip(where, array.shape, strict=True))
    return [range(a // u, -(-b // u)) for (a, b), u in zip(ends, unit, strict=True)]


def folder_of(array: zarr.Array) -> Path | None:
    """Return the folder of an array; None where it is not on a local disk."""
    store = array.store_path.store
    return Path(store.root) / array.store_path.path if isinstance(store, LocalStore) else None


def partials(folder: Path) -> list[Path]:
    """Return the files in a folder that zarr had begun to write."""
    try:
        with os.scandir(folder) as entries:
            return [Path(e.path) for e in entries if e.name.endswith(".partial")]
    except (FileNotFoundError, NotADirectoryError):
        return []
