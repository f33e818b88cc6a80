"""Do blocks of a stage in one process: one block is computed while others are read or written.

The driver and the workers do blocks in the same way. They differ in where a block comes from and in
what happens when it fails, so each brings a loop of its own.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from synpol.blockwise.records import Index
from synpol.blockwise.stage import Stage
from synpol.blockwise.times import BlockTime, append_time
from synpol.errors import InputError

#: number of times that a block is tried
ATTEMPTS = 3


class BlockRunner[Opened, Given, Result]:
    """Do blocks of a stage in this process.

    Parameters
    ----------
    stage : Stage
        Opened here, once for all blocks of this process.
    times : path
        File that gets a line for each block: how long it took.

    Attributes
    ----------
    stopping : threading.Event
        Set when a loop of `run_loops` has failed: the other loops take no more blocks.
    slowest : float
        Seconds that the slowest block took, its wait for another block included.
    """

    def __init__(self, stage: Stage[Opened, Given, Result], times: Path) -> None:
        self.stage, self.times = stage, times
        self.opened = stage.open()
        self.stopping = threading.Event()
        self.slowest = 0.0
        self._compute_lock = threading.Lock()
        self._noting = threading.Lock()
        self._free_since = time.monotonic()

    def run_loops(self, loop: Callable[[], None]) -> None:
        """Run a loop in `Stage.prefetch` threads at once, of which the calling thread is one.

        Parameters
        ----------
        loop : callable
            Takes blocks and does them with `do`, until there are none or `stopping` is set.

        Raises
        ------
        BaseException
            The first exception of any loop, after all loops have ended.
        """
        failures: list[BaseException] = []

        def guarded() -> None:
            try:
                loop()
            except BaseException as error:
                failures.append(error)
                self.stopping.set()

        others = [threading.Thread(target=guarded) for _ in range(self.stage.prefetch - 1)]
        try:
            for thread in others:
                thread.start()
            guarded()
        finally:  # Ctrl-C comes to this thread; the blocks of the others are finished
            for thread in others:
                thread.join()
        if failures:
            raise failures[0]

    def do(self, index: Index) -> None:
        """Do one block: read, compute, write, and note how long it took."""
        started = time.monotonic()
        given = self.stage.read(index, self.opened)
        arrived = time.monotonic()
        with self._compute_lock:
            begun = time.monotonic()
            idle = begun - self._free_since
            try:
                result = self.stage.compute(index, self.opened, given)
            finally:
                ended = self._free_since = time.monotonic()
        self.stage.write(index, self.opened, result)
        took = time.monotonic() - started
        waited = begun - arrived
        with self._noting:
            self.slowest = max(self.slowest, took)
            append_time(self.times, BlockTime(index, took - waited, ended - begun, idle))

    def attempt(self, index: Index) -> str | None:
        """Do one block, and try again where it fails.

        Returns
        -------
        str or None
            Traceback of the last of `ATTEMPTS` attempts; None when the block is done.

        Raises
        ------
        InputError
            The input cannot be used: no further attempt can mend that.
        """
        for _ in range(ATTEMPTS):
            try:
                self.do(index)
            except InputError:
                raise
            except Exception:
                failure = traceback.format_exc()
            else:
                return None
        return failure
