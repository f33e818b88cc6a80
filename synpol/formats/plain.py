"""Voxels that lie in a file one after the other, without chunks, perhaps compressed as a whole."""

from __future__ import annotations

import bz2
import gzip
import math
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from synpol.errors import InputError


class PlainArray:
    """Read regions of an array that lies in a file in C order.

    Parameters
    ----------
    path : Path
    offset : int
        First byte of the array; with `compression`, in what is unpacked.
    shape : sequence of int
    dtype : dtype
        With the byte order of the file.
    compression : {"", "gzip", "bzip2"}
        A compressed file is read forward, so that importing it takes one pass.
    packed_from : int
        First compressed byte.

    Raises
    ------
    InputError
        The file ends before the array does.
    """

    def __init__(
        self,
        path: Path,
        offset: int,
        shape: Sequence[int],
        dtype: np.dtype,
        compression: str = "",
        packed_from: int = 0,
    ) -> None:
        self.path = path
        self.offset = offset
        self.shape = tuple(int(n) for n in shape)
        self.dtype = dtype
        self._stored = open(path, "rb")  # noqa: SIM115 open as long as the array
        opener: Any = {"gzip": gzip.open, "bzip2": bz2.open}.get(compression)
        packed = _Tail(self._stored, packed_from)
        self._file = cast(BinaryIO, opener(packed) if opener else self._stored)
        needed = offset + math.prod(self.shape) * dtype.itemsize
        if not compression and path.stat().st_size < needed:
            self.close()
            raise self._cut(f"it has {path.stat().st_size} bytes instead of {needed}")

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._stored.close()

    def __getitem__(self, where: tuple[int | slice, ...]) -> np.ndarray:
        return self._read(self.offset, self.shape, where)

    def _read(
        self, offset: int, shape: tuple[int, ...], where: tuple[int | slice, ...]
    ) -> np.ndarray:
        """Read a region of an array that begins at a byte."""
        first, rest = where[0], where[1:]
        stride = math.prod(shape[1:]) * self.dtype.itemsize
        if isinstance(first, int):
            return self._read(offset + first * stride, shape[1:], rest)
        begin, end, _ = first.indices(shape[0])
        is_whole = all(w == slice(0, n) for w, n in zip(rest, shape[1:], strict=True))
        if len(shape) > 3 and not is_whole:
            parts = [self._read(offset + i * stride, shape[1:], rest) for i in range(begin, end)]
            return np.stack(parts)
        values = np.empty((end - begin, *shape[1:]), self.dtype)
        self._fill(values, offset + begin * stride)
        return values if is_whole else values[(slice(None), *rest)]

    def _fill(self, values: np.ndarray, offset: int) -> None:
        """Read bytes from a place on into an array."""
        target = memoryview(values.reshape(-1).view(np.uint8))
        filled = 0
        try:
            self._file.seek(offset)
            while filled < len(target):
                count = self._file.readinto(target[filled:])  # type: ignore[attr-defined]
                if not count:
                    raise self._cut(f"{len(target) - filled} bytes are missing")
                filled += count
        except (OSError, EOFError, zlib.error) as error:
            raise self._cut(str(error)) from error

    def _cut(self, reason: str) -> InputError:
        return InputError(
            f"{self.path} ends before its last section: {reason}; the copy is incomplete or "
            "damaged, copy it again"
        )


class _Tail:
    """Show the rest of a file as a file that begins at 0.

    Parameters
    ----------
    file : file
    begin : int
        Byte of the file that is the first one here.
    """

    def __init__(self, file: BinaryIO, begin: int) -> None:
        self._file, self._begin = file, begin
        file.seek(begin)

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        begin = self._begin if whence == os.SEEK_SET else 0
        return self._file.seek(offset + begin, whence) - self._begin

    def tell(self) -> int:
        return self._file.tell() - self._begin

    def seekable(self) -> bool:
        return True
