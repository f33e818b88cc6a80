"""The driver: runs stages one after the other, in its own process or by workers.

Each stage is one daisy run with no edges to others. Its blocks are cells of the grid: daisy hands
out indices, the stage knows the voxels. daisy is told to skip blocks that have their record, and
when it returns the records are looked at again: a stage has succeeded when every record is there,
whatever anybody reported.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from tqdm import tqdm

from synpol.blockwise.grid import index_of
from synpol.blockwise.lock import DriverLock
from synpol.blockwise.progress import Progress, Status
from synpol.blockwise.schedulers import scheduler_of
from synpol.blockwise.stage import Stage, Turn
from synpol.blockwise.times import append_time, times_folder, told_by
from synpol.blockwise.worker import REFUSED
from synpol.errors import InputError

if TYPE_CHECKING:
    from synpol.blockwise.pool import WorkerPool
    from synpol.config import Workers

#: below this much work a stage runs in the driver: workers would take longer to start
DRIVER_VOXELS = 2**27
#: the same once workers are there
DRIVER_VOXELS_WITH_WORKERS = 2**25
ATTEMPTS = 3
#: stages that take longer than this many seconds are told of
WORTH_TELLING = 0.5
#: those that take longer than this tell where the time went
TOLD = 10.0
#: seconds for which orphans of an earlier run are waited for
PATIENCE = 120.0
#: seconds within which a shared file system shows this machine what others have written
LISTED_WITHIN = 60.0


def runs_in_driver(
    todo: int,
    cost: int,
    num_workers: int,
    *,
    remote: bool = False,
    there: bool = False,
    for_workers: bool = False,
) -> bool:
    """Whether a stage is done by the driver itself.

    Parameters
    ----------
    todo : int
        Blocks.
    cost : int
        `Stage.cost` of one.
    num_workers : int
    remote : bool
        Whether workers are jobs of a cluster.
    there : bool
        Whether workers have been started for an earlier stage.
    for_workers : bool
        `Stage.for_workers`.
    """
    if remote and for_workers:
        return False
    enough = DRIVER_VOXELS_WITH_WORKERS if there else DRIVER_VOXELS
    return todo == 1 or todo * cost <= enough or (num_workers == 1 and not remote)


class Driver:
    """Runs stages; holds the lock of the work folder and the workers.

    Parameters
    ----------
    work_dir : Path
        Shared by all workers: lock, records, logs, status.
    what : str
        What this driver does, for people.
    num_workers : int
        Workers at most; a single one on this machine is the driver itself.
    settings : Workers, optional
        Where and with what workers run; by default on this machine.
    gpus : int
        Of each worker, where a cluster gives them out.

    Raises
    ------
    InputError
        Another driver works in this folder, or no scheduler has the name that `settings` say.
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
    ) -> None:
        self.work_dir, self.num_workers = work_dir, num_workers
        self.settings, self.gpus = settings, gpus
        self.scheduler = scheduler_of(settings)
        self.lock = DriverLock(work_dir, what)
        try:
            wait_for_orphans(work_dir)
        except BaseException:
            self.lock.release()
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
            self.lock.release()

    def run(self, stage: Stage) -> int:
        """Do the blocks of a stage that are not done yet.

        Returns
        -------
        int
            How many blocks it had to do.

        Raises
        ------
        InputError
            A block found that the input cannot be used, or a scheduler refused a job.
        RuntimeError
            Blocks are missing after `ATTEMPTS` attempts each; names them and the first error.
        """
        done = stage.done()
        todo = int(done.size - done.sum())
        if todo == 0:
            return 0
        (stage.folder / REFUSED).unlink(missing_ok=True)
        shutil.rmtree(times_folder(self.work_dir, stage), ignore_errors=True)
        progress = Progress(stage, int(done.sum()), self.status)
        remote = self.scheduler.remote
        with progress:
            if runs_in_driver(
                todo,
                stage.cost,
                self.num_workers,
                remote=remote,
                there=self._pool is not None,
                for_workers=stage.for_workers,
            ):
                error = self._in_driver(stage, done, progress)
            else:
                error = self._by_workers(stage, done, progress)
        missing = np.argwhere(~stage.done())
        patience = time.monotonic() + (LISTED_WITHIN if remote and error is None else 0)
        while len(missing) and time.monotonic() < patience:  # others may see a new file later
            time.sleep(1)
            missing = np.argwhere(~stage.done())
        if len(missing):
            raise self._failure(stage, missing, error)
        said = f"{stage.name}: {todo} blocks in {progress.seconds():.1f} s"
        if progress.seconds() > TOLD:
            said += told_by(times_folder(self.work_dir, stage))
        if progress.seconds() > WORTH_TELLING:
            tqdm.write(said, file=sys.stderr)
        return todo

    def _in_driver(self, stage: Stage, done: np.ndarray, progress: Progress) -> str | None:
        loaded = stage.start()
        blocks = iter([index_of(index) for index in np.argwhere(~done)])
        turn, guard, stop = Turn(), threading.Lock(), threading.Event()
        errors: list[str] = []
        fatal: list[BaseException] = []

        def attempt(index: Any) -> None:
            for _ in range(ATTEMPTS):
                try:
                    took = turn.run(stage, index, loaded)
                except InputError:
                    raise
                except Exception:
                    errors.append(traceback.format_exc())
                else:
                    with guard:
                        append_time(times_folder(self.work_dir, stage) / "driver.times", took)
                        progress.add()
                    return

        def lane() -> None:
            try:
                while not stop.is_set():
                    with guard:
                        index = next(blocks, None)
                    if index is None:
                        return
                    attempt(index)
            except BaseException as error:
                fatal.append(error)
                stop.set()

        others = [threading.Thread(target=lane) for _ in range(stage.lanes - 1)]
        try:
            for thread in others:
                thread.start()
            lane()
        finally:  # Ctrl-C comes to this thread; blocks in hand are finished
            for thread in others:
                thread.join()
        if fatal:
            raise fatal[0]
        return errors[0] if errors else None

    def _by_workers(self, stage: Stage, done: np.ndarray, progress: Progress) -> str | None:
        import daisy.v2 as daisy

        pool = self._workers()
        written = {path: path.stat().st_size for path in pool.logs.rglob("*.err")}
        number, launcher = pool.announce(stage, int(done.size - done.sum()))
        progress.attach(pool)
        cell = daisy.Roi((0, 0, 0), (1, 1, 1))
        local = not self.scheduler.remote
        task = daisy.Task(
            stage.name,
            daisy.Roi((0, 0, 0), stage.grid),
            cell,
            cell,
            launcher,
            read_write_conflict=False,
            fit="shrink",
            max_workers=1,
            max_retries=ATTEMPTS - 1,
            # a worker has several blocks in hand, of which one is computed
            timeout=float("inf") if local else float(stage.lanes * pool.settings.block_timeout),
            skip_mask=done,
        )
        try:
            with _quiet(pool.logs):
                states = daisy.run_blockwise(
                    task,
                    return_states=True,
                    progress=progress,
                    summary=False,
                    host="127.0.0.1" if local else pool.settings.host,
                    block_tracking=False,
                )
        except RuntimeError as error:  # daisy gave up
            why: str | None = pool.failure or str(error)
        else:
            why = pool.failure
        finally:
            pool.finish(number)
        log = _new_log(pool.logs, written)
        if why:
            return f"{why}\n{log or ''}"
        state = states[stage.name]
        return state.first_worker_error or state.last_worker_error or log

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

    def _failure(
        self, stage: Stage, missing: np.ndarray, error: str | None
    ) -> InputError | RuntimeError:
        refused = stage.folder / REFUSED
        if refused.exists():
            return InputError(refused.read_text())
        if error and "running after timeout" in error:
            error += "\n(how long a block may take is workers.block_timeout)"
        shown = ", ".join(str(tuple(int(i) for i in index)) for index in missing[:5])
        return RuntimeError(
            f"{stage.name}: {len(missing)} of {stage.count} blocks failed (block index {shown}"
            f"{', ...' if len(missing) > 5 else ''}); what is done is kept, run the same command "
            f"again to go on. Logs: {self.work_dir / 'logs'}. First error:\n{error or 'none seen'}"
        )


@contextlib.contextmanager
def _quiet(logs: Path) -> Iterator[None]:
    """Keep what daisy's processes print in log files."""
    from daisy import logging as daisy_logging

    mode, folder = daisy_logging.get_log_mode(), daisy_logging.get_log_basedir()
    daisy_logging.set_log_mode("file")
    daisy_logging.set_log_basedir(logs)
    try:
        yield
    finally:
        daisy_logging.set_log_mode(mode)
        daisy_logging.set_log_basedir(folder)


def wait_for_orphans(work_dir: Path) -> None:
    """Wait until no worker of an earlier driver is left in a work folder.

    Raises
    ------
    RuntimeError
        After `PATIENCE` seconds.
    """
    with open(work_dir / "workers.lock", "a") as file:
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


def _new_log(folder: Path, written: dict[Path, int]) -> str | None:
    """What a worker has written to its log since it had these sizes."""
    for path in sorted(folder.rglob("*.err")):
        text = path.read_bytes()[written.get(path, 0) :].decode(errors="replace").strip()
        if text:
            return "\n".join(text.splitlines()[-30:])
    return None
