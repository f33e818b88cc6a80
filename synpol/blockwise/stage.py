"""What a blockwise stage is, and how one is run.

A stage is a grid of blocks and a function of one block that writes that block's record. Each stage
is one daisy run with no edges to others. Its blocks are cells of the grid: daisy hands out
indices, the stage knows the voxels. The records say which blocks are done; daisy is told to
skip those, and when it returns the records are looked at again: a stage has succeeded when every
record is there, whatever anybody reported.

A block may run twice at once (an orphan of a killed driver, a node cut off from the network), so
each writes one region and one record, both by content alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from synpol.blockwise.geometry import index_of
from synpol.blockwise.records import Index, done_mask, write_whole
from synpol.errors import InputError
from synpol.lock import DriverLock, end_with_driver

#: below this much work a stage runs in the driver: workers would take longer to start
DRIVER_VOXELS = 2**27
ATTEMPTS = 3
#: file in a stage's folder: what a worker found wrong with the input
REFUSED = "refused.txt"


@dataclass(frozen=True)
class Stage(ABC):
    """A step over all blocks.

    Attributes
    ----------
    folder : Path
        Of its records.
    grid : (int, int, int)
        Blocks along z, y, x.
    """

    folder: Path
    grid: Index

    #: shown to people
    name = "stage"
    #: what `process` costs, in voxels that could be labelled instead; decides where the stage runs
    cost = 1

    @property
    def block_voxels(self) -> int:
        """Voxels of a block, for the progress; 0 where a job is not about voxels."""
        return 0

    def start(self) -> Any:
        """What a worker loads once; handed to every `process`."""
        return None

    @abstractmethod
    def process(self, index: Index, loaded: Any) -> None:
        """Do one block and write its record last."""

    def done(self) -> np.ndarray:
        """Which blocks are done; bool, of the shape of the grid."""
        return done_mask(self.folder, self.grid)


@dataclass(frozen=True)
class Driver:
    """Who runs stages: holds the lock of the work folder.

    Attributes
    ----------
    work_dir : Path
        Shared by all workers.
    lock : DriverLock
    num_workers : int
        Processes at most; 1 is the driver itself, without any start-up.
    """

    work_dir: Path
    lock: DriverLock
    num_workers: int

    def run(self, stage: Stage) -> int:
        """Do the blocks of a stage that are not done yet.

        Returns
        -------
        int
            How many blocks it had to do.

        Raises
        ------
        InputError
            A block found that the input cannot be used.
        RuntimeError
            Blocks are missing after `ATTEMPTS` attempts each; names them and the first error.
        """
        done = stage.done()
        todo = int(done.size - done.sum())
        if todo == 0:
            return 0
        started = time.monotonic()
        (stage.folder / REFUSED).unlink(missing_ok=True)
        small = todo == 1 or todo * stage.cost <= DRIVER_VOXELS
        if small or self.num_workers == 1:
            error = self._in_driver(stage, done)
        else:
            error = self._by_workers(stage, done)
        missing = np.argwhere(~stage.done())
        if len(missing):
            raise _failure(stage, missing, error, self.work_dir)
        tqdm.write(
            f"{stage.name}: {todo} blocks in {time.monotonic() - started:.1f} s", file=sys.stderr
        )
        return todo

    def _in_driver(self, stage: Stage, done: np.ndarray) -> str | None:
        loaded = stage.start()
        blocks = [index_of(index) for index in np.argwhere(~done)]
        first_error = None
        for index in tqdm(blocks, desc=stage.name, unit="block", disable=len(blocks) < 8, **_BAR):
            for _ in range(ATTEMPTS):
                try:
                    stage.process(index, loaded)
                    break
                except InputError:
                    raise
                except Exception:
                    first_error = first_error or traceback.format_exc()
        return first_error

    def _by_workers(self, stage: Stage, done: np.ndarray) -> str | None:
        import daisy.v2 as daisy

        cell = daisy.Roi((0, 0, 0), (1, 1, 1))
        logs = self.work_dir / "logs"
        written = {path: path.stat().st_size for path in logs.rglob("*.err")}
        task = daisy.Task(
            stage.name,
            daisy.Roi((0, 0, 0), stage.grid),
            cell,
            cell,
            worker_function(stage, self.work_dir, self.lock.run),
            read_write_conflict=False,
            fit="shrink",
            max_workers=min(self.num_workers, int(done.size - done.sum())),
            max_retries=ATTEMPTS - 1,
            timeout=float("inf"),
            skip_mask=done,
        )
        try:
            with _quiet(logs):
                states = daisy.run_blockwise(
                    task,
                    return_states=True,
                    progress=_Progress(stage, int(done.sum())),
                    summary=False,
                    host="127.0.0.1",
                    block_tracking=False,
                )
        except RuntimeError as error:  # the restarts of workers are used up
            return str(error)
        state = states[stage.name]
        return state.first_worker_error or state.last_worker_error or _new_log(logs, written)


_BAR: dict[str, Any] = {"mininterval": 0.5 if sys.stderr.isatty() else 10, "leave": False}


@contextlib.contextmanager
def _quiet(logs: Path) -> Iterator[None]:
    """Keep what workers print in their log files."""
    from daisy import logging as daisy_logging

    mode, folder = daisy_logging.get_log_mode(), daisy_logging.get_log_basedir()
    daisy_logging.set_log_mode("file")
    daisy_logging.set_log_basedir(logs)
    try:
        yield
    finally:
        daisy_logging.set_log_mode(mode)
        daisy_logging.set_log_basedir(folder)


def worker_function(stage: Stage, work_dir: Path, run: str) -> Callable[[], None]:
    """The function that daisy calls once a worker process; it takes blocks until there are none."""

    def work() -> None:
        run_worker(stage, work_dir, run)

    return work


def run_worker(stage: Stage, work_dir: Path, run: str) -> None:
    """Take blocks from daisy and do them until there are none.

    A block that fails is reported and the worker goes on; a connection that fails ends it. Input
    that cannot be used ends the whole stage. The worker ends within seconds of its driver's end.
    """
    import daisy.v2 as daisy

    end_with_driver(work_dir, run)
    refused = stage.folder / REFUSED
    with working(work_dir):
        try:
            loaded = stage.start()
        except InputError as error:
            write_whole(refused, str(error).encode())
        client = daisy.Client()
        while True:
            acquired = False
            try:
                with client.acquire_block() as block:
                    acquired = True
                    if block is None:
                        return
                    try:
                        if not refused.exists():
                            stage.process(index_of(block.write_roi.begin), loaded)
                    except InputError as error:
                        # no retry can mend it; without a record the block does not count as done
                        write_whole(refused, str(error).encode())
            except Exception:
                if not acquired:
                    raise


@contextlib.contextmanager
def working(work_dir: Path) -> Iterator[None]:
    """Held by every worker, so that the next driver can wait for orphans of the last one."""
    with open(work_dir / "workers.lock", "a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


def wait_for_orphans(work_dir: Path, patience: float = 60.0) -> None:
    """Wait until no worker of an earlier driver is left in a work folder.

    Raises
    ------
    RuntimeError
        After `patience` seconds.
    """
    with open(work_dir / "workers.lock", "a") as file:
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RuntimeError(
                        f"workers of an earlier run still work in {work_dir}; end them first"
                    ) from None
                time.sleep(0.1)


class _Progress:
    """daisy's progress as one bar in blocks, with what that means in voxels."""

    def __init__(self, stage: Stage, skipped: int) -> None:
        self.stage = stage
        self.skipped = skipped
        self.started = time.monotonic()

    def on_start(self, states: Any) -> None:
        total = int(np.prod(self.stage.grid))
        self.bar = tqdm(
            total=total, initial=self.skipped, desc=self.stage.name, unit="block", **_BAR
        )

    def on_progress(self, states: Any) -> None:
        state = states[self.stage.name]
        self.bar.update(state.completed_count - self.bar.n)
        rate = (self.bar.n - self.skipped) / (time.monotonic() - self.started)
        voxels = rate * self.stage.block_voxels / 1e6
        said = [f"{voxels:.1f} Mvoxel/s"] if voxels else []
        said += [f"{state.failed_count} failed"] if state.failed_count else []
        self.bar.set_postfix_str(", ".join(said))

    def on_finish(self, states: Any) -> None:
        self.on_progress(states)
        self.bar.close()


def _new_log(folder: Path, written: dict[Path, int]) -> str | None:
    """What a worker has written to its log since it had these sizes."""
    for path in sorted(folder.rglob("*.err")):
        text = path.read_bytes()[written.get(path, 0) :].decode(errors="replace").strip()
        if text:
            return "\n".join(text.splitlines()[-30:])
    return None


def _failure(
    stage: Stage, missing: np.ndarray, error: str | None, work_dir: Path
) -> InputError | RuntimeError:
    refused = stage.folder / REFUSED
    if refused.exists():
        return InputError(refused.read_text())
    shown = ", ".join(str(tuple(int(i) for i in index)) for index in missing[:5])
    return RuntimeError(
        f"{stage.name}: {len(missing)} of {int(np.prod(stage.grid))} blocks failed (block index "
        f"{shown}{', ...' if len(missing) > 5 else ''}); what is done is kept, run the same "
        f"command again to go on. Logs: {work_dir / 'logs'}. First error:\n{error or 'none seen'}"
    )


def blocks_of(grid: Index) -> Iterator[Index]:
    """Every index of a grid in C order."""
    return itertools.product(*(range(n) for n in grid))  # type: ignore[return-value]
