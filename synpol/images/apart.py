"""Reading in a process of its own, for processes that were forked.

The processes that prepare training batches are forked from the training loop. What reads at URLs
has threads, which do not survive a fork, and tensorstore even ends a forked process that uses it.
So such an array starts a process that reads for it where it finds itself in a fork.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

_SERVE = "import sys; sys.path[:] = {path!r}; from synpol.images.apart import serve; serve()"


class ArrayApart(ABC):
    """An array whose library does not survive a fork; each kind is a subclass.

    A subclass opens the array when it is made, and can be pickled, to be opened elsewhere.

    Attributes
    ----------
    shape, chunks : tuple of int
    dtype : numpy.dtype
    attrs : mapping
        Attributes of the array; empty.
    """

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype
    attrs: Mapping[str, Any] = {}

    def __init__(self) -> None:
        self._process = os.getpid()
        self._reader: _Reader | None = None

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @abstractmethod
    def read(self, where: tuple[int | slice, ...]) -> np.ndarray:
        """Read a region; an index or a slice with both ends for each axis."""

    def __getitem__(self, where: tuple[int | slice, ...]) -> np.ndarray:
        here = os.getpid()
        if here == self._process:
            return self.read(where)
        if self._reader is None or self._reader.owner != here:
            self._reader = _Reader(self, here)
        return self._reader.read(where)


class RemoteArray(ArrayApart):
    """A Zarr array at a URL or in a ZIP file, or a view of one.

    Parameters
    ----------
    array : array
    """

    def __init__(self, array: Any) -> None:
        super().__init__()
        self._array = array
        self.shape, self.chunks, self.dtype = array.shape, array.chunks, array.dtype

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteArray, (self._array,)

    def read(self, where: tuple[int | slice, ...]) -> np.ndarray:
        return np.asarray(self._array[where])


class _Reader:
    """A process that reads for this one."""

    def __init__(self, array: ArrayApart, owner: int) -> None:
        self.owner = owner
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVE.format(path=sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._send(array)

    def read(self, where: tuple[int | slice, ...]) -> np.ndarray:
        with self._lock:
            self._send(where)
            assert self._process.stdout is not None
            try:
                answer = pickle.load(self._process.stdout)
            except EOFError:
                code = self._process.wait()
                raise RuntimeError(
                    f"the process that reads voxels ended (exit code {code})"
                ) from None
        if isinstance(answer, Exception):
            raise answer
        return np.asarray(answer)

    def _send(self, what: object) -> None:
        assert self._process.stdin is not None
        pickle.dump(what, self._process.stdin)
        self._process.stdin.flush()


def serve() -> None:
    """Read regions of an array for the process at the other end, until that ends."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with the other process
    asked, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    try:
        array = pickle.load(asked)
        while True:
            where = pickle.load(asked)
            answer: object
            try:
                answer = array[where]
            except Exception as error:
                answer = error
            pickle.dump(answer, answers)
            answers.flush()
    except (EOFError, BrokenPipeError):
        return
