"""The worker processes of a run, alive through all of its stages."""

from __future__ import annotations

import contextlib
import pickle
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import cloudpickle
import psij

from synpol.blockwise.lock import give_sign_of_life
from synpol.blockwise.schedulers import scheduler_of
from synpol.blockwise.stage import Stage
from synpol.blockwise.submission import executor_of, job_of, worker_script
from synpol.blockwise.worker import Board, launcher
from synpol.errors import InputError
from synpol.files import write_whole

if TYPE_CHECKING:
    from synpol.config import Workers

#: deaths in a row that a pool forgives, however few workers it has
MOST_DEATHS = 10


class WorkerPool:
    """Keeps a number of workers alive from the first stage they do until `close`.

    Parameters
    ----------
    work_dir : Path
        Shared with all workers.
    run : str
        `DriverLock.run`.
    count : int
        Workers at most.
    settings : Workers
        Where and with what they run.
    gpus : int
        Of each.
    """

    def __init__(self, work_dir: Path, run: str, count: int, settings: Workers, gpus: int) -> None:
        self.work_dir, self.run, self.count = work_dir, run, count
        self.settings, self.gpus = settings, gpus
        self.scheduler = scheduler_of(settings)
        self.cores = settings.cores_of(count)
        self.board = Board.of(work_dir, run)
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
        self._executor = executor_of(settings, self.board.folder / "jobs")
        loops = (self._watch, self._give_signs)
        self._threads = [threading.Thread(target=loop, daemon=True) for loop in loops]
        for thread in self._threads:
            thread.start()

    def _prepare_folders(self) -> None:
        """Remove what workers of earlier runs left, and write what those of this one start with."""
        shutil.rmtree(self.board.folder.parent, ignore_errors=True)
        self.board.folder.mkdir(parents=True)
        self.logs.mkdir(exist_ok=True)
        for old in self.logs.glob("synpol-*"):
            old.unlink()
        give_sign_of_life(self.work_dir, 0)
        self._script = self.board.folder / "worker.sh"
        script = worker_script(self.settings, self.cores, self.work_dir, self.run)
        self._script.write_text(script)

    def alive(self) -> int:
        """Workers that run now, as far as the scheduler has told."""
        return sum(job.status.state == psij.JobState.ACTIVE for job in list(self._jobs))

    def announce(self, stage: Stage, todo: int) -> tuple[int, Callable[..., None]]:
        """Get workers ready for a stage.

        Returns
        -------
        number : int
            To be given to `finish`.
        launcher : callable
            What daisy calls instead of starting workers; it lasts until the stage is over.

        Raises
        ------
        InputError
            The scheduler refused a job.
        """
        with self._lock:
            self._number += 1
            self._deaths, self.failure = 0, None
        content = pickle.dumps(sys.path) + cloudpickle.dumps(stage)
        write_whole(self.board.function(self._number), content)
        for _ in range(len(self._jobs), min(self.count, todo)):
            job = self._submit()
            with self._lock:
                self._jobs.append(job)
        return self._number, launcher(self.board, self.work_dir, self.run, self._number)

    def finish(self, number: int) -> None:
        """Tell workers and launcher that a stage is over."""
        write_whole(self.board.over(number), b"")
        self.board.function(number).unlink(missing_ok=True)

    def note_progress(self, finished: int) -> None:
        """Blocks of this stage that are finished: while they grow, deaths are forgiven."""
        if finished != self._finished:
            self._finished, self._deaths = finished, 0

    def close(self) -> None:
        """End all workers."""
        self._closing.set()
        for thread in self._threads:
            thread.join()
        with contextlib.suppress(OSError):
            write_whole(self.board.end, b"")
        deadline = time.monotonic() + (0 if self.scheduler.remote else 2)
        for job in self._jobs:
            while not job.status.final and time.monotonic() < deadline:
                time.sleep(0.02)
            with contextlib.suppress(Exception):  # it may have ended by itself just now
                self.scheduler.cancel(job)
        shutil.rmtree(self.board.folder, ignore_errors=True)

    def _submit(self) -> psij.Job:
        """
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

    def _give_signs(self) -> None:
        """Tell workers that their driver lives, whatever else keeps it busy."""
        count = 0
        while not self._closing.wait(1.0):
            count += 1
            give_sign_of_life(self.work_dir, count)

    def _watch(self) -> None:
        """Replace workers that have ended, while the run goes on."""
        refused_until = 0.0
        while not self._closing.wait(1.0 if self.scheduler.remote else 0.1):
            for place, job in enumerate(list(self._jobs)):
                if not job.status.final or self.failure or time.monotonic() < refused_until:
                    continue
                self._deaths += 1  # forgiven where a block was finished since; see note_progress
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

    @property
    def most_deaths(self) -> int:
        """Deaths in a row, with no block finished between them, after which the pool gives up."""
        return max(MOST_DEATHS, 2 * self.count)

    def _give_up(self, why: str) -> None:
        with self._lock:
            self.failure = why
            write_whole(self.board.over(self._number), b"")
