"""Read every voxel of a large Zarr array once, on this machine.

tensorstore decodes chunks in threads of its own, straight into the result. zarr-python hands each
chunk from thread to thread, and the threads wait for each other (docs/decoding_measured.md).
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.storage import LocalStore

if TYPE_CHECKING:
    import tensorstore

#: whether tensorstore was loaded before this process was forked, so that using it ends the process
_is_forked = "tensorstore" in sys.modules and multiprocessing.parent_process() is not None


def _note_fork() -> None:
    global _is_forked
    _is_forked = "tensorstore" in sys.modules


os.register_at_fork(after_in_child=_note_fork)


class QuickArray:
    """A Zarr array that tensorstore reads; all else is that of the array.

    What tensorstore cannot read, zarr-python reads, or says why it cannot be read.

    Parameters
    ----------
    array : zarr.Array
    quick : tensorstore.TensorStore
        The same array.
    """

    def __init__(self, array: zarr.Array, quick: tensorstore.TensorStore) -> None:
        self._array, self._quick = array, quick

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._array, name)

    def __getitem__(self, where: Any) -> np.ndarray:
        if not _is_forked:
            try:
                return self._read(where)
            except Exception:  # zarr-python names the chunk
                pass
        return np.asarray(self._array[where])

    def _read(self, where: tuple[slice, ...]) -> np.ndarray:
        import tensorstore

        ends = tuple(slice(*w.indices(n)) for w, n in zip(where, self.shape, strict=True))
        part = self._quick[ends]
        voxels = np.empty(part.shape, self.dtype)  # here a lack of memory is an exception
        tensorstore.array(voxels, copy=False, write=True).write(part).result()
        return voxels


def quick(array: zarr.Array) -> zarr.Array | QuickArray:
    """Open an array in tensorstore too, where it is Zarr v3 in a folder.

    Parameters
    ----------
    array : zarr.Array or View

    Returns
    -------
    zarr.Array or View or QuickArray
        The array itself where tensorstore does not read it, or takes it for another one.
    """
    if not isinstance(array, zarr.Array) or array.metadata.zarr_format != 3 or _is_forked:
        return array
    if not isinstance(array.store, LocalStore):
        return array
    import tensorstore

    folder = array.store.root / array.path
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{folder.resolve()}/"}}
    try:
        found = tensorstore.open(spec, read=True, open=True).result()
    except Exception:  # a codec, a type or a path that tensorstore does not know
        return array
    fill = np.asarray(found.fill_value, array.dtype).tobytes()
    told = (found.shape, found.dtype.numpy_dtype, fill)
    if told != (array.shape, array.dtype, np.asarray(array.fill_value, array.dtype).tobytes()):
        return array  # metadata of a group that are older than those of the array
    return QuickArray(array, found)
