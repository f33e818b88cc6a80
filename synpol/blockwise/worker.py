"""A worker: ``python -m synpol.blockwise.worker WORK_DIR RUN SECONDS``, started by the driver.

It lives through all stages of a run. The driver announces a stage in the work folder; the worker
takes blocks from daisy until there are none, and waits for the next stage. It ends when the run is
over, within seconds of its driver's end, at once when the run it was started for is not the one
that holds the folder, and before its walltime (SECONDS, 0 for none) would cut a block short.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import pickle
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synpol.blockwise.grid import index_of
from synpol.blockwise.lock import DriverWatch, end_with_driver
from synpol.blockwise.records import Index
from synpol.blockwise.stage import AnyStage, ComputeLock
from synpol.blockwise.times import append_time, times_folder
from synpol.errors import InputError
from synpol.files import write_whole

#: file in a stage's folder: what a worker found wrong with the input
REFUSED = "refused.txt"
#: blocks of a stage whose records every worker may look through at its end
FEW = 10_000
#: seconds for which a worker tries to reach its driver
REACH = 60.0


@dataclass(frozen=True)
class Board:
    """Where the driver tells its workers what to do: files in ``<work_dir>/pool/<run>``."""

    folder: Path

    @classmethod
    def of(cls, work_dir: Path, run: str) -> Board:
        return cls(work_dir / "pool" / run)

    @property
    def stage(self) -> Path:
        """The announcement of the stage that runs."""
        return self.folder / "stage.json"

    def function(self, number: int) -> Path:
        """A stage: the driver's module path and the stage itself, pickled one after the other."""
        return self.folder / f"stage-{number}.pickle"

    def over(self, number: int) -> Path:
        """A file that is there once a stage is over."""
        return self.folder / f"over-{number}"

    @property
    def end(self) -> Path:
        """A file that is there once the run is over."""
        return self.folder / "end"


def launcher(board: Board, work_dir: Path, run: str, number: int) -> Callable[..., None]:
    """What daisy starts in place of a worker: it tells the pool where blocks are to be had."""

    def announce(*, context: Any) -> None:
        import daisy.v2 as daisy

        end_with_driver(work_dir, run)
        logging.getLogger("daisy").setLevel(logging.ERROR)  # it warns of every stage's end
        context["worker_id"] = -1  # many workers share it; none is daisy's to watch
        told = {"number": number, "context": context.to_env()}
        if not board.over(number).exists():
            write_whole(board.stage, json.dumps(told).encode())
        here = context.copy()
        here["hostname"] = "127.0.0.1"
        looks = 0
        while not board.over(number).exists():
            time.sleep(0.01)
            looks += 1
            # daisy takes no connections once every block is done or has failed for good
            if looks % 50 == 0 and not daisy.Client(here).connected:
                write_whole(board.over(number), b"")

    return announce


def main() -> None:
    work_dir, run, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    logging.getLogger("daisy").setLevel(logging.ERROR)  # it warns of every stage's end
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver, which ends its workers
    if not DriverWatch(work_dir, run).lives():
        return  # a job that was still pending when its driver ended
    end_with_driver(work_dir, run)
    leave = time.monotonic() + seconds - 10 if seconds else float("inf")  # 10 s: it has started
    with working(work_dir):
        _Worker(work_dir, Board.of(work_dir, run), leave).run()


@contextlib.contextmanager
def working(work_dir: Path) -> Iterator[None]:
    """Held by every worker, so that the next driver can wait for orphans of the last one."""
    with open(work_dir / "workers.lock", "a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


class _Worker:
    """One process's part in a run."""

    def __init__(self, work_dir: Path, board: Board, leave: float) -> None:
        self.work_dir, self.board, self.leave = work_dir, board, leave
        self.name = f"{socket.gethostname()}-{os.getpid()}"
        self.slowest = 0.0

    def run(self) -> None:
        last, patience = 0, 0.02
        while not self.board.end.exists():
            try:
                told = json.loads(self.board.stage.read_text())
            except (OSError, ValueError):  # not there yet, or not wholly, on a shared file system
                told = {"number": 0}
            if told["number"] <= last:
                time.sleep(patience)
                patience = min(1.0, patience * 1.05)
                continue
            last, patience = told["number"], 0.02
            if not self.board.over(last).exists():
                self._serve(last, told["context"])
            if not self._stays():
                return

    def _stays(self) -> bool:
        return time.monotonic() + 1.2 * self.slowest < self.leave

    def _serve(self, number: int, context: str) -> None:
        """Do blocks of a stage until it is over, or the time is up."""
        os.environ["DAISY_CONTEXT"] = context
        try:
            with open(self.board.function(number), "rb") as file:
                sys.path += [p for p in pickle.load(file) if p not in sys.path]
                stage: AnyStage = pickle.load(file)
        except FileNotFoundError:  # it is over, and the next has begun
            return
        try:
            opened = stage.open()
        except InputError as error:  # the driver could use it, so it is this machine that cannot
            sys.exit(f"on {socket.gethostname()}: {error}")
        compute, errors = ComputeLock(), []

        def lane() -> None:
            try:
                self._lane(stage, number, opened, compute)
            except Exception:
                errors.append(traceback.format_exc())

        threads = [threading.Thread(target=lane, daemon=True) for _ in range(stage.prefetch)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors and not self.board.over(number).exists():
            print(errors[0], file=sys.stderr, flush=True)
            sys.exit(1)

    def _lane(self, stage: AnyStage, number: int, opened: Any, compute: ComputeLock) -> None:
        over, refused = self.board.over(number), stage.folder / REFUSED
        patience, deadline = 0.02, time.monotonic() + REACH
        client = self._client()
        while self._stays() and not over.exists():
            if client is None or not client.connected:
                # daisy takes no connections once every block is done or has failed for good; the
                # launcher sees that too, and it is certain, where this machine may be cut off
                if stage.count <= FEW and stage.done().all():
                    write_whole(over, b"")
                    return
                if time.monotonic() > deadline:
                    raise ConnectionError(
                        f"{socket.gethostname()} cannot reach the driver; say in workers.host "
                        f"under which address it is seen ({os.environ['DAISY_CONTEXT']})"
                    )
                time.sleep(patience)
                patience = min(1.0, patience * 1.5)
                client = self._client()
                continue
            deadline = time.monotonic() + REACH
            acquired = False
            try:
                with client.acquire_block() as block:
                    acquired = True
                    if block is not None:
                        patience = 0.02
                        if not refused.exists():
                            self._do(stage, index_of(block.write_roi.begin), opened, compute)
                        continue
            except Exception:
                if not acquired:  # the connection broke, perhaps since the stage is just over
                    client = None
                continue
            # nothing to do now; a block that another worker has in hand may come back
            time.sleep(patience)
            patience = min(1.0, patience * 1.5)
            client = self._client()  # daisy answers each connection once that there is nothing

    def _client(self) -> Any:
        """A connection to daisy, for the thread that asks; None where there is no way."""
        import daisy.v2 as daisy

        try:
            return daisy.Client()
        except Exception:
            return None

    def _do(self, stage: AnyStage, index: Index, opened: Any, compute: ComputeLock) -> None:
        started = time.monotonic()
        try:
            took = compute.run(stage, index, opened)
        except InputError as error:
            # no retry can mend it; without a record the block does not count as done
            write_whole(stage.folder / REFUSED, str(error).encode())
            return
        self.slowest = max(self.slowest, time.monotonic() - started)
        append_time(times_folder(self.work_dir, stage) / f"{self.name}.times", took)


if __name__ == "__main__":
    main()
