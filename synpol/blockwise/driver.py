"""Run stages one after the other, in the driver's own process or by workers.

Each stage is one daisy run with no edges to others. Its blocks are cells of the grid: daisy hands
out indices, the stage knows the voxels. daisy skips blocks that have their record. When daisy
returns, the driver looks at the records again: a stage has succeeded when every block has its
record, whatever daisy and the workers have reported.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from tqdm import tqdm

from synpol.blockwise.grid import index_of
from synpol.blockwise.lock import DriverLock, OutputLock
from synpol.blockwise.process import BlockRunner
from synpol.blockwise.progress import Progress, Status
from synpol.blockwise.records import DamagedRecord, sync_records
from synpol.blockwise.schedulers import check_place, scheduler_of
from synpol.blockwise.stage import AnyStage, FillStage
from synpol.blockwise.times import summary_of, times_folder
from synpol.blockwise.worker import REFUSED
from synpol.errors import InputError, Outage
from synpol.files import is_url
from synpol.images.stores import outage_in

if TYPE_CHECKING:
    from synpol.blockwise.pool import WorkerPool
    from synpol.config import Workers

#: work up to which a stage runs in the driver (see `Stage.cost`): workers start more slowly
DRIVER_VOXELS = 2**27
#: the same once workers have been started
DRIVER_VOXELS_WITH_WORKERS = 2**25
#: stages slower than this are reported (seconds)
REPORTED = 0.5
#: stages slower than this are reported with their slowest blocks (seconds)
REPORTED_WITH_BLOCKS = 10.0
#: seconds for which a driver waits until workers of an earlier run have ended
PATIENCE = 120.0
#: seconds within which a shared file system shows this machine what others have written
LISTED_WITHIN = 60.0


def runs_in_driver(
    todo: int,
    cost: int,
    num_workers: int,
    *,
    remote: bool = False,
    workers_run: bool = False,
    for_workers: bool = False,
) -> bool:
    """Decide whether the driver does a stage itself.

    Parameters
    ----------
    todo : int
        Number of blocks to be done.
    cost : int
        `Stage.cost` of one block.
    num_workers : int
        Largest number of workers.
    remote : bool
        Whether workers are jobs of a cluster.
    workers_run : bool
        Whether workers have been started for an earlier stage.
    for_workers : bool
        `Stage.for_workers`.
    """
    if remote and for_workers:
        return False
    enough = DRIVER_VOXELS_WITH_WORKERS if workers_run else DRIVER_VOXELS
    return todo == 1 or todo * cost <= enough or (num_workers == 1 and not remote)


class Driver:
    """Run stages, and hold the lock of the work folder and the workers.

    Parameters
    ----------
    work_dir : Path
        Folder that all workers share: lock, records, logs, status.
    what : str
        What this driver does, for people.
    num_workers : int
        Largest number of workers; a single one on this machine is the driver itself.
    settings : Workers, optional
        Where workers run and with what; by default on this machine.
    gpus : int
        Number of GPUs that each worker asks a cluster for.
    output : path or URL, optional
        Container that the driver writes in. Where it is local, a driver with another work folder
        is kept out of it.

    Raises
    ------
    InputError
        Another driver works in one of these folders, no scheduler has the name that `settings`
        say, or the jobs of a scheduler cannot work in this folder.
    RuntimeError
        Workers of an earlier driver do not end.
    """

    def __init__(
        self,
        work_dir: Path,
        what: str,
        num_workers: int = 1,
        settings: Workers | None = None,
        gpus: int = 0,
        *,
        output: str | os.PathLike[str] | None = None,
    ) -> None:
        if isinstance(num_workers, str) or int(num_workers) != num_workers or num_workers < 1:
            raise InputError(f"num_workers is {num_workers}; a whole number from 1 on is expected")
        self.work_dir, self.num_workers = work_dir, int(num_workers)
        self.settings, self.gpus = settings, gpus
        self.scheduler = scheduler_of(settings)
        check_place(settings, work_dir)
        self.lock = DriverLock(work_dir, what)
        self._output_lock: OutputLock | None = None
        try:
            if output is not None and not is_url(output):
                self._output_lock = OutputLock(output)
            wait_for_orphans(work_dir)
        except BaseException:
            self._release()
            raise
        self.status = Status(work_dir / "status.json", what)
        self._pool: WorkerPool | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if self._pool is not None:
                self._pool.close()
            self.status.end(error)
        finally:
            self._release()

    def _release(self) -> None:
        if self._output_lock is not None:
            self._output_lock.release()
        self.lock.release()

    def run(self, stage: AnyStage) -> int:
        """Do the blocks of a stage that are not done yet.

        Parameters
        ----------
        stage : Stage

        Returns
        -------
        int
            Number of blocks that had to be done.

        Raises
        ------
        InputError
            A block found that the input cannot be used, or a scheduler refused a job.
        ValueError
            The stage has no folder.
        RuntimeError
            Blocks are missing after three attempts each; names them and the first error.
        """
        if stage.folder == Path():
            raise ValueError(f"the stage {stage.name!r} has no folder for its records")
        done = stage.done()
        todo = int(done.size - done.sum())
        if todo == 0:
            return 0
        (stage.folder / REFUSED).unlink(missing_ok=True)
        shutil.rmtree(times_folder(self.work_dir, stage), ignore_errors=True)
        progress = Progress(stage, int(done.sum()), self.status)
        with progress:
            if self._does_itself(stage, todo):
                error = self._in_driver(stage, done, progress)
            else:
                error = self._by_workers(stage, done, progress)
        missing = self._missing(stage, wait=self.scheduler.remote and error is None)
        if len(missing):
            raise self._failure(stage, missing, error)
        if isinstance(stage, FillStage):  # records of other stages hold all that they speak of
            sync_records(stage.folder, map(index_of, np.argwhere(~done)))
        self._report(stage, todo, progress.seconds())
        return todo

    def _does_itself(self, stage: AnyStage, todo: int) -> bool:
        return runs_in_driver(
            todo,
            stage.cost,
            self.num_workers,
            remote=self.scheduler.remote,
            workers_run=self._pool is not None,
            for_workers=stage.for_workers,
        )

    def _in_driver(self, stage: AnyStage, done: np.ndarray, progress: Progress) -> str | None:
        """Do the blocks of a stage in this process; returns the first error."""
        runner = BlockRunner(stage, times_folder(self.work_dir, stage) / "driver.times")
        blocks = iter([index_of(index) for index in np.argwhere(~done)])
        guard, errors = threading.Lock(), []

        def take_blocks() -> None:
            while not runner.stopping.is_set():
                with guard:
                    index = next(blocks, None)
                if index is None:
                    return
                error = runner.attempt(index)
                with guard:
                    if error is None:
                        progress.add()
                    else:
                        errors.append(error)

        runner.run_loops(take_blocks)
        return errors[0] if errors else None

    def _by_workers(self, stage: AnyStage, done: np.ndarray, progress: Progress) -> str | None:
        """Let workers do the blocks of a stage; returns the first error."""
        return self._workers().run(stage, done, progress)

    def _workers(self) -> WorkerPool:
        from synpol.blockwise.pool import WorkerPool

        if self._pool is None:
            if self.settings is None:
                from synpol.config import Workers

                self.settings = Workers()
            self._pool = WorkerPool(
                self.work_dir, self.lock.run, self.num_workers, self.settings, self.gpus
            )
        return self._pool

    def _missing(self, stage: AnyStage, wait: bool) -> np.ndarray:
        """Return the index of every block without a record; others may see a new file later."""
        until = time.monotonic() + (LISTED_WITHIN if wait else 0)
        missing = np.argwhere(~stage.done())
        while len(missing) and time.monotonic() < until:
            time.sleep(1)
            missing = np.argwhere(~stage.done())
        return missing

    def _failure(
        self, stage: AnyStage, missing: np.ndarray, error: str | None
    ) -> InputError | RuntimeError:
        refused = stage.folder / REFUSED
        if refused.exists():
            return InputError(refused.read_text())
        if error and "running after timeout" in error:
            error += "\n(how long a block may take is workers.block_timeout)"
        if error and DamagedRecord.__name__ in error:
            said = error.strip().splitlines()[-1].partition(": ")[2]
            return DamagedRecord(f"{stage.name}: {said}")
        if error and (outage := outage_in(error)):
            return Outage(f"{stage.name}: {outage}")
        shown = ", ".join(str(tuple(int(i) for i in index)) for index in missing[:5])
        return RuntimeError(
            f"{stage.name}: {len(missing)} of {stage.count} blocks failed (block index {shown}"
            f"{', ...' if len(missing) > 5 else ''}); what is done is kept, run the same command "
            f"again to go on. Logs: {self.work_dir / 'logs'}. First error:\n{error or 'none seen'}"
        )

    def _report(self, stage: AnyStage, todo: int, seconds: float) -> None:
        """Say on the terminal how long a stage took, if it took long."""
        text = f"{stage.name}: {todo} blocks in {seconds:.1f} s"
        if seconds > REPORTED_WITH_BLOCKS:
            text += summary_of(times_folder(self.work_dir, stage))
        if seconds > REPORTED:
            tqdm.write(text, file=sys.stderr)


def wait_for_orphans(work_dir: Path) -> None:
    """Wait until no worker of an earlier driver is left in a work folder.

    Raises
    ------
    RuntimeError
        A worker is left after `PATIENCE` seconds.
    """
    with open(work_dir / "workers.lock", "a+") as file:
        deadline = time.monotonic() + PATIENCE
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
