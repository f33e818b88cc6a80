"""Keep the worker processes of a run alive through all of its stages."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psij

from synpol.blockwise.announcements import Announcements, launcher_of
from synpol.blockwise.lock import write_heartbeat
from synpol.blockwise.process import ATTEMPTS
from synpol.blockwise.progress import Progress
from synpol.blockwise.schedulers import scheduler_of
from synpol.blockwise.stage import AnyStage
from synpol.blockwise.submission import executor_of, job_of, worker_script
from synpol.errors import InputError

if TYPE_CHECKING:
    from synpol.config import Workers

#: number of workers that may end one after the other without a finished block, in a small pool
MOST_DEATHS = 10


class WorkerPool:
    """Keep a number of workers alive, from the first stage that they work on until `close`.

    Parameters
    ----------
    work_dir : Path
        Folder that all workers share.
    run_name : str
        `DriverLock.run` of the driver.
    count : int
        Largest number of workers.
    settings : Workers
        Where workers run and with what.
    gpus : int
        Number of GPUs that each worker asks a cluster for.

    Attributes
    ----------
    failure : str or None
        Why the pool has given up on the stage that runs.
    """

    def __init__(
        self, work_dir: Path, run_name: str, count: int, settings: Workers, gpus: int
    ) -> None:
        self.work_dir, self.run_name, self.count = work_dir, run_name, count
        self.settings, self.gpus = settings, gpus
        self.scheduler = scheduler_of(settings)
        self.cores = settings.cores_of(count)
        self.announcements = Announcements.of(work_dir, run_name)
        self.logs = work_dir / "logs"
        self.failure: str | None = None
        self._jobs: list[psij.Job] = []
        self._number = 0
        self._submitted = 0
        self._deaths = 0
        self._finished = 0
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._prepare_folders()
        self._executor = executor_of(settings, self.announcements.folder / "jobs")
        loops = (self._replace_dead, self._beat)
        self._threads = [threading.Thread(target=loop, daemon=True) for loop in loops]
        for thread in self._threads:
            thread.start()

    def _prepare_folders(self) -> None:
        """Remove what workers of earlier runs left, and write what those of this run start with."""
        folder = self.announcements.folder
        shutil.rmtree(folder.parent, ignore_errors=True)
        folder.mkdir(parents=True)
        self.logs.mkdir(exist_ok=True)
        for old in self.logs.glob("synpol-*"):
            old.unlink()
        write_heartbeat(self.work_dir, 0)
        self._script = folder / "worker.sh"
        script = worker_script(self.settings, self.cores, self.work_dir, self.run_name)
        self._script.write_text(script)

    def alive(self) -> int:
        """Return the number of workers that run now, as far as the scheduler has said."""
        return sum(job.status.state == psij.JobState.ACTIVE for job in list(self._jobs))

    def run(self, stage: AnyStage, done: np.ndarray, progress: Progress) -> str | None:
        """Let workers do the blocks of a stage.

        Parameters
        ----------
        stage : Stage
        done : bool array of the shape of `Stage.grid`
            Blocks that are done already.
        progress : Progress

        Returns
        -------
        str or None
            The first error that a worker, the pool or daisy has reported.

        Raises
        ------
        InputError
            The scheduler refused a job.
        """
        sizes = {path: path.stat().st_size for path in self.logs.rglob("*.err")}
        reported: str | None = None
        failure: str | None = None
        launcher = self._begin(stage, int(done.size - done.sum()))
        progress.by_workers(self.alive, self._note_progress)
        try:
            state = self._hand_out(stage, done, launcher, progress)
            reported = state.first_worker_error or state.last_worker_error
        except RuntimeError as error:  # daisy gave up
            failure = str(error)
        finally:
            self.announcements.finish(self._number)
        failure = self.failure or failure
        log = _new_log(self.logs, sizes)
        return f"{failure}\n{log or ''}" if failure else reported or log

    def _begin(self, stage: AnyStage, todo: int) -> Callable[..., None]:
        """Get workers ready for a stage; returns what daisy starts in their place."""
        with self._lock:
            self._number += 1
            self._deaths, self.failure = 0, None
        self.announcements.store(self._number, stage)
        for _ in range(len(self._jobs), min(self.count, todo)):
            job = self._submit()
            with self._lock:
                self._jobs.append(job)
        return launcher_of(self.announcements, self.work_dir, self.run_name, self._number)

    def _hand_out(
        self, stage: AnyStage, done: np.ndarray, launcher: Callable[..., None], progress: Progress
    ) -> Any:
        """Let daisy hand out the blocks of a stage until all are done or have failed for good.

        Returns
        -------
        object
            daisy's state of the stage.

        Raises
        ------
        RuntimeError
            daisy gave up.
        """
        import daisy.v2 as daisy

        local = not self.scheduler.remote
        cell = daisy.Roi((0, 0, 0), (1, 1, 1))
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
            # a worker holds several blocks, of which one is computed
            timeout=float("inf") if local else float(stage.prefetch * self.settings.block_timeout),
            skip_mask=done,
        )
        with _daisy_logs_in(self.logs):
            states = daisy.run_blockwise(
                task,
                return_states=True,
                progress=progress,
                summary=False,
                host="127.0.0.1" if local else self.settings.host,
                block_tracking=False,
            )
        return states[stage.name]

    def close(self) -> None:
        """End all workers."""
        self._closing.set()
        for thread in self._threads:
            thread.join()
        with contextlib.suppress(OSError):
            self.announcements.end()
        deadline = time.monotonic() + (0 if self.scheduler.remote else 2)
        for job in self._jobs:
            while not job.status.final and time.monotonic() < deadline:
                time.sleep(0.02)
            with contextlib.suppress(Exception):  # it may have ended by itself just now
                self.scheduler.cancel(job)
        shutil.rmtree(self.announcements.folder, ignore_errors=True)

    def _submit(self) -> psij.Job:
        """Submit the job of one worker.

        Raises
        ------
        InputError
            The scheduler refused the job.
        """
        name = f"synpol-{self._submitted}"
        self._submitted += 1
        command = ["/bin/bash", str(self._script), name]
        job = job_of(self.settings, self.cores, self.gpus, command, name)
        try:
            self._executor.submit(job)
        except (psij.SubmitException, psij.InvalidJobException, OSError) as error:
            raise InputError(
                f"{self.settings.executor} refused the job of a worker: {str(error).strip()}; "
                "look at the section `workers` of the config (queue, account, memory, walltime, "
                "options)"
            ) from None
        return job

    def _beat(self) -> None:
        """Write a heartbeat every second, whatever else keeps the driver busy."""
        count = 0
        while not self._closing.wait(1.0):
            count += 1
            write_heartbeat(self.work_dir, count)

    def _replace_dead(self) -> None:
        """Replace workers that have ended, while the run goes on."""
        refused_until = 0.0
        while not self._closing.wait(1.0 if self.scheduler.remote else 0.1):
            for place, job in enumerate(list(self._jobs)):
                if not job.status.final or self.failure or time.monotonic() < refused_until:
                    continue
                self._deaths += 1  # forgiven where a block was finished since; see _note_progress
                if self._deaths > self.most_deaths:
                    self._give_up(f"{self._deaths} workers ended and no block was finished")
                    break
                try:
                    self._jobs[place] = self._submit()
                except InputError as error:  # it was accepted before, so it may be again
                    refused_until = time.monotonic() + 10
                    if self._deaths == self.most_deaths:
                        self._give_up(str(error))
                        break

    def _note_progress(self, finished: int) -> None:
        """Note how many blocks of this stage are finished: while they grow, deaths are forgiven."""
        if finished != self._finished:
            self._finished, self._deaths = finished, 0

    @property
    def most_deaths(self) -> int:
        """Number of deaths in a row, without a finished block, at which the pool still goes on."""
        return max(MOST_DEATHS, 2 * self.count)

    def _give_up(self, why: str) -> None:
        with self._lock:
            self.failure = why
            self.announcements.finish(self._number)


@contextlib.contextmanager
def _daisy_logs_in(folder: Path) -> Iterator[None]:
    """Keep what daisy's processes print in log files of a folder."""
    from daisy import logging as daisy_logging

    mode, before = daisy_logging.get_log_mode(), daisy_logging.get_log_basedir()
    daisy_logging.set_log_mode("file")
    daisy_logging.set_log_basedir(folder)
    try:
        yield
    finally:
        daisy_logging.set_log_mode(mode)
        daisy_logging.set_log_basedir(before)


def _new_log(folder: Path, sizes: dict[Path, int]) -> str | None:
    """Return the end of what a worker has written to its log since the logs had these sizes."""
    for path in sorted(folder.rglob("*.err")):
        text = path.read_bytes()[sizes.get(path, 0) :].decode(errors="replace").strip()
        if text:
            return "\n".join(text.splitlines()[-30:])
    return None
