"""Work on blocks: ``python -m synpol.blockwise.worker WORK_DIR RUN SECONDS``, started by a driver.

A worker lives through all stages of a run. The driver announces a stage in the work folder; the
worker takes blocks from daisy until there are none, and waits for the next stage. It ends when the
run is over, within seconds of its driver's end, at once when the run that it was started for does
not hold the folder, and before its walltime (SECONDS, 0 for none) would cut a block short.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from synpol.blockwise.announcements import Announcement, Announcements
from synpol.blockwise.grid import index_of
from synpol.blockwise.lock import DriverWatch, end_with_driver
from synpol.blockwise.process import BlockRunner
from synpol.blockwise.records import Index
from synpol.blockwise.stage import AnyStage
from synpol.blockwise.times import times_folder
from synpol.errors import InputError
from synpol.files import write_whole

#: file in a stage's folder: what a worker found wrong with the input
REFUSED = "refused.txt"
#: number of blocks up to which every worker may look through the records of a stage
FEW = 10_000
#: seconds for which a worker tries to connect to its driver
CONNECT_WITHIN = 60.0
#: seconds before the end of its walltime in which a worker begins no block: it has to end itself
ENDING = 10.0


def main() -> None:
    """Work for the run that the command line names."""
    work_dir, run, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    logging.getLogger("daisy").setLevel(logging.ERROR)  # it warns at the end of every stage
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver, which ends its workers
    if not DriverWatch(work_dir, run).lives():
        return  # this job was still pending when its driver ended
    end_with_driver(work_dir, run)
    leave_at = time.monotonic() + seconds - ENDING if seconds else float("inf")
    with _holding_workers_lock(work_dir):
        _Worker(work_dir, Announcements.of(work_dir, run), leave_at).run()


@contextlib.contextmanager
def _holding_workers_lock(work_dir: Path) -> Iterator[None]:
    """Hold a shared lock, by which the next driver sees that a worker of the last one is left."""
    # NFSv4 gives a shared lock only on a file that is open for reading
    with open(work_dir / "workers.lock", "a+") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


class _Backoff:
    """Wait a little, and longer every time, up to a second.

    Parameters
    ----------
    growth : float
        Ratio of one wait to the wait before.
    """

    FIRST = 0.02

    def __init__(self, growth: float) -> None:
        self.growth, self.seconds = growth, self.FIRST

    def wait(self) -> None:
        """Wait; the next time longer."""
        time.sleep(self.seconds)
        self.seconds = min(1.0, self.seconds * self.growth)

    def reset(self) -> None:
        """Begin with short waits again."""
        self.seconds = self.FIRST


class _Answer(enum.Enum):
    """What came of asking daisy for a block."""

    BLOCK = enum.auto()
    NO_BLOCK = enum.auto()
    NO_CONNECTION = enum.auto()


class _Worker:
    """Do one process's part of the blocks of a run.

    Parameters
    ----------
    work_dir : path
        Folder of the run.
    announcements : Announcements
        Where the driver announces stages.
    leave_at : float
        Time (of `time.monotonic`) at which this process has to have ended.
    """

    def __init__(self, work_dir: Path, announcements: Announcements, leave_at: float) -> None:
        self.work_dir, self.announcements, self.leave_at = work_dir, announcements, leave_at
        self.name = f"{socket.gethostname()}-{os.getpid()}"
        self.slowest = 0.0

    def run(self) -> None:
        """Work on stage after stage until the run is over or the time is up."""
        last, backoff = 0, _Backoff(1.05)
        while not self.announcements.have_ended():
            stage = self.announcements.latest()
            if stage is None or stage.number <= last:
                backoff.wait()
                continue
            last = stage.number
            backoff.reset()
            if not self.announcements.is_finished(last):
                self._work_on(stage)
            if not self._has_time():
                return

    def _has_time(self, slowest: float = 0.0) -> bool:
        """Tell whether there is time for one more block."""
        return time.monotonic() + 1.2 * max(self.slowest, slowest) < self.leave_at

    def _work_on(self, announced: Announcement) -> None:
        """Do blocks of a stage until it is finished or the time is up."""
        os.environ["DAISY_CONTEXT"] = announced.context
        stage = self.announcements.load(announced.number)
        if stage is None:
            return
        try:
            runner = BlockRunner(stage, times_folder(self.work_dir, stage) / f"{self.name}.times")
        except InputError as error:  # the driver could use it, so it is this machine that cannot
            sys.exit(f"on {socket.gethostname()}: {error}")
        try:
            runner.run_loops(lambda: self._take_blocks(runner, announced.number))
        except Exception:
            if not self.announcements.is_finished(announced.number):
                raise
        self.slowest = max(self.slowest, runner.slowest)

    def _take_blocks(self, runner: BlockRunner[Any, Any, Any], number: int) -> None:
        """Take blocks from daisy and do them; each thread of a `BlockRunner` runs this loop.

        Raises
        ------
        ConnectionError
            The driver cannot be reached from this machine.
        """
        client, backoff = _connection(), _Backoff(1.5)
        deadline = time.monotonic() + CONNECT_WITHIN
        while (
            self._has_time(runner.slowest)
            and not self.announcements.is_finished(number)
            and not runner.stopping.is_set()
        ):
            if client is None or not client.connected:
                # daisy takes no connections once every block is done or has failed for good; the
                # launcher sees that too, and it is certain, where this machine may be cut off
                if _all_done(runner.stage):
                    self.announcements.finish(number)
                    return
                if time.monotonic() > deadline:
                    raise ConnectionError(
                        f"{socket.gethostname()} cannot reach the driver; say in workers.host "
                        f"under which address it is seen ({os.environ['DAISY_CONTEXT']})"
                    )
                backoff.wait()
                client = _connection()
                continue
            deadline = time.monotonic() + CONNECT_WITHIN
            answer = _ask_for_block(client, runner)
            if answer is _Answer.BLOCK:
                backoff.reset()
            elif answer is _Answer.NO_CONNECTION:  # perhaps since the stage is just finished
                client = None
            else:  # a block that another worker holds may come back
                backoff.wait()
                client = _connection()  # daisy says only once to each that there is no block


def _ask_for_block(client: Any, runner: BlockRunner[Any, Any, Any]) -> _Answer:
    """Ask daisy for a block and do it; daisy is told of what it raises, and gives it out again."""
    acquired = False
    try:
        with client.acquire_block() as block:
            acquired = True
            if block is None:
                return _Answer.NO_BLOCK
            _do_unless_refused(runner, index_of(block.write_roi.begin))
    except Exception:
        return _Answer.BLOCK if acquired else _Answer.NO_CONNECTION
    return _Answer.BLOCK


def _do_unless_refused(runner: BlockRunner[Any, Any, Any], index: Index) -> None:
    """Do a block, unless a worker has found that the input cannot be used.

    No further attempt can mend that, so daisy is not told of it. Without a record the block does
    not count as done, and the driver reads why.
    """
    refused = runner.stage.folder / REFUSED
    if refused.exists():
        return
    try:
        runner.do(index)
    except InputError as error:
        write_whole(refused, str(error).encode(), sync=False)


def _all_done(stage: AnyStage) -> bool:
    """Tell whether all blocks of a stage are done, where there are few enough to look."""
    return stage.count <= FEW and bool(stage.done().all())


def _connection() -> Any:
    """Return a connection to daisy for this thread; None where there is no way."""
    import daisy.v2 as daisy

    try:
        return daisy.Client()
    except Exception:
        return None


if __name__ == "__main__":
    main()
