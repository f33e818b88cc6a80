"""The worker processes of a run, alive through all of its stages."""

from __future__ import annotations

import contextlib
import json
import logging
import pickle
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from synpol.blockwise.records import write_whole
from synpol.blockwise.stage import Stage
from synpol.blockwise.worker import Board
from synpol.errors import InputError
from synpol.lock import end_with_driver, give_sign_of_life

if TYPE_CHECKING:
    import psij

    from synpol.config import Workers

#: deaths in a row that a pool forgives, however few workers it has
MOST_DEATHS = 10


class WorkerPool:
    """Keeps a number of workers alive from their first use until `close`.

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
        self.cores = settings.cores_of(count)
        self.board = Board.of(work_dir, run)
        self.logs = work_dir / "logs"
        self.failure: str | None = None
        self._jobs: list[psij.Job] = []
        self._number = 0
        self._submitted = 0
        self._deaths = 0
        self._finished = 0
        self._executor: psij.JobExecutor | None = None
        self._closing = threading.Event()
        self._lock = threading.Lock()

    def alive(self) -> int:
        """Workers that run now, as far as the scheduler has told."""
        import psij

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
        import cloudpickle

        if self._executor is None:
            self._open()
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
        if self._executor is None:
            return
        self._closing.set()
        for thread in self._threads:
            thread.join()
        with contextlib.suppress(OSError):
            write_whole(self.board.end, b"")
        deadline = time.monotonic() + (2 if self.settings.executor == "local" else 0)
        for job in self._jobs:
            while not job.status.final and time.monotonic() < deadline:
                time.sleep(0.02)
            if not job.status.final:
                with contextlib.suppress(Exception):  # it may have ended by itself just now
                    job.cancel()
        shutil.rmtree(self.board.folder, ignore_errors=True)

    def _open(self) -> None:
        from synpol.blockwise.schedulers import executor_of, worker_script

        shutil.rmtree(self.board.folder.parent, ignore_errors=True)  # of earlier runs
        self.board.folder.mkdir(parents=True)
        self.logs.mkdir(exist_ok=True)
        for old in self.logs.glob("synpol-*"):
            old.unlink()
        give_sign_of_life(self.work_dir, 0)
        self._script = self.board.folder / "worker.sh"
        script = worker_script(self.settings, self.cores, self.work_dir, self.run)
        self._script.write_text(script)
        self._executor = executor_of(self.settings, self.board.folder / "jobs")
        loops = (self._watch, self._give_signs)
        self._threads = [threading.Thread(target=loop, daemon=True) for loop in loops]
        for thread in self._threads:
            thread.start()

    def _submit(self) -> psij.Job:
        """
        Raises
        ------
        InputError
            The scheduler refused the job.
        """
        import psij

        from synpol.blockwise.schedulers import job_of

        executor: Any = self._executor
        name = f"synpol-{self._submitted}"
        self._submitted += 1
        command = ["/bin/bash", str(self._script), name]
        job = job_of(self.settings, self.cores, self.gpus, command, name)
        try:
            executor.submit(job)
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
        while not self._closing.wait(0.1 if self.settings.executor == "local" else 1.0):
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
