"""Hand batches from a process to the one that forked it, through memory that both share.

A pipe takes an array in pieces of 64 kB and copies it several times on each side, and the network
waits meanwhile. Here a pipe takes only what describes a batch; its arrays are copied once into
shared memory, and once out of it.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import pickle
from typing import Any

import gunpowder as gp

ALIGNED = 64  # bytes


class BatchQueue:
    """Queue of batches, from a forked process to its parent.

    Parameters
    ----------
    length : int
        Number of batches that wait in the queue at most. There is memory for two more, each as
        large as the first one; a larger one, and all where the system grants no such memory, go
        through a pipe.
    """

    def __init__(self, length: int) -> None:
        self.queue: Any = multiprocessing.get_context("fork").Queue(maxsize=length)
        self.slots = length + 2  # beside those that wait, one is being read and one written
        self.descriptor = _shared_file()
        self.memory: mmap.mmap | None = None
        self.slot_size = 0
        self.count = 0

    def put(self, batch: gp.Batch | None, failure: str | None = None) -> None:
        """Append a batch, or what went wrong instead; wait while the queue is full."""
        buffers: list[pickle.PickleBuffer] = []
        described = pickle.dumps(batch, protocol=5, buffer_callback=buffers.append)
        arrays = [buffer.raw() for buffer in buffers]
        sizes = [-(-array.nbytes // ALIGNED) * ALIGNED for array in arrays]
        size = sum(sizes)
        if self.memory is None and size > 0:
            self._reserve(size)
        if self.memory is None or size > self.slot_size:
            self.queue.put((pickle.dumps(batch), [], failure))
            return
        place, places = self.count % self.slots * self.slot_size, []
        for array, padded in zip(arrays, sizes, strict=True):
            self.memory[place : place + array.nbytes] = array
            places.append((place, place + array.nbytes))
            place += padded
        self.count += 1
        self.queue.put((described, places, failure))

    def _reserve(self, slot_size: int) -> None:
        """Reserve memory for batches of a size; without it they go through the pipe."""
        if self.descriptor is None:
            return
        try:
            os.posix_fallocate(self.descriptor, 0, self.slots * slot_size)
            self.memory, self.slot_size = mmap.mmap(self.descriptor, 0), slot_size
        except OSError:  # a limit of this machine, or of the user
            os.close(self.descriptor)
            self.descriptor = None

    def get(self, timeout: float) -> tuple[gp.Batch | None, str | None]:
        """Take the first batch, and what went wrong instead of it.

        Raises
        ------
        queue.Empty
            There is none after so many seconds.
        """
        described, places, failure = self.queue.get(timeout=timeout)
        if self.memory is None and places:
            assert self.descriptor is not None
            self.memory = mmap.mmap(self.descriptor, 0)
        with memoryview(self.memory or b"") as shared:
            arrays = [bytearray(shared[begin:end]) for begin, end in places]
        return pickle.loads(described, buffers=arrays), failure

    def close(self) -> None:
        """Let go of the memory, and do not wait for what is still on its way."""
        self.queue.cancel_join_thread()
        self.queue.close()
        if self.memory is not None:
            self.memory.close()
        if self.descriptor is not None:
            os.close(self.descriptor)
        self.memory = self.descriptor = None


def _shared_file() -> int | None:
    """Open a file that has no name and lies in memory; None where the system has none."""
    try:
        return os.memfd_create("batches")
    except (AttributeError, OSError):
        return None
