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
import tempfile
from typing import Any

import gunpowder as gp

ALIGNED = 64  # bytes


class BatchQueue:
    """Queue of batches, from a forked process to its parent.

    Parameters
    ----------
    length : int
        Number of batches that wait in the queue at most.
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
        if self.memory is None and sum(sizes) > 0:
            self.slot_size = sum(sizes)
            os.ftruncate(self.descriptor, self.slots * self.slot_size)
            self.memory = mmap.mmap(self.descriptor, 0)
        if self.memory is None or sum(sizes) > self.slot_size:
            self.queue.put((pickle.dumps(batch), [], failure))
            return
        place, places = self.count % self.slots * self.slot_size, []
        for array, size in zip(arrays, sizes, strict=True):
            self.memory[place : place + array.nbytes] = array
            places.append((place, place + array.nbytes))
            place += size
        self.count += 1
        self.queue.put((described, places, failure))

    def get(self, timeout: float) -> tuple[gp.Batch | None, str | None]:
        """Take the first batch, and what went wrong instead of it.

        Raises
        ------
        queue.Empty
            There is none after so many seconds.
        """
        described, places, failure = self.queue.get(timeout=timeout)
        if self.memory is None and places:
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
            self.memory = None
        os.close(self.descriptor)


def _shared_file() -> int:
    """Open a file without a name, in memory where the system can do so."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("batches")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
