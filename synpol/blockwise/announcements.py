"""Announce stages to workers: files in ``<work_dir>/pool/<run>``, where every worker sees them.

Workers live through all stages of a run. For each stage the driver stores the stage itself and
announces where daisy hands out its blocks; a done-file says that the stage is finished.
"""

from __future__ import annotations

import json
import logging
import pickle
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synpol.blockwise.lock import end_with_driver
from synpol.blockwise.stage import AnyStage
from synpol.files import write_whole


@dataclass(frozen=True)
class Announcement:
    """A stage that workers can work on.

    Attributes
    ----------
    number : int
        Number of the stage in this run, from 1 on.
    context : str
        Value of ``DAISY_CONTEXT``: where and how daisy hands out the blocks.
    """

    number: int
    context: str


@dataclass(frozen=True)
class Announcements:
    """What a driver announces to the workers of one run.

    Attributes
    ----------
    folder : Path
        Folder of the files.
    """

    folder: Path

    @classmethod
    def of(cls, work_dir: Path, run: str) -> Announcements:
        """Return the announcements of a run; see `DriverLock.run`."""
        return cls(work_dir / "pool" / run)

    def store(self, number: int, stage: AnyStage) -> None:
        """Store a stage for the workers, and the driver's module path, by which they import it."""
        import cloudpickle  # workers do without it

        write_whole(
            self._stage(number), pickle.dumps(sys.path) + cloudpickle.dumps(stage), sync=False
        )

    def load(self, number: int) -> AnyStage | None:
        """Load a stage in a worker; None where the stage is finished already."""
        try:
            with open(self._stage(number), "rb") as file:
                sys.path += [p for p in pickle.load(file) if p not in sys.path]
                stage: AnyStage = pickle.load(file)
        except FileNotFoundError:
            return None
        return stage

    def announce(self, announcement: Announcement) -> None:
        """Let workers begin with a stage, unless it is finished already."""
        if not self.is_finished(announcement.number):
            content = {"number": announcement.number, "context": announcement.context}
            write_whole(self._latest, json.dumps(content).encode(), sync=False)

    def latest(self) -> Announcement | None:
        """Return the stage that was announced last; None where there is none to be read yet."""
        try:
            return Announcement(**json.loads(self._latest.read_text()))
        except (OSError, TypeError, ValueError):  # on a shared file system it may appear bit by bit
            return None

    def finish(self, number: int) -> None:
        """Say that a stage is finished: workers and launcher leave it."""
        write_whole(self._done_file(number), b"", sync=False)
        self._stage(number).unlink(missing_ok=True)

    def is_finished(self, number: int) -> bool:
        """Tell whether a stage is finished."""
        return self._done_file(number).exists()

    def end(self) -> None:
        """Say that the run is over: workers end."""
        write_whole(self._end, b"", sync=False)

    def have_ended(self) -> bool:
        """Tell whether the run is over."""
        return self._end.exists()

    @property
    def _latest(self) -> Path:
        return self.folder / "stage.json"

    @property
    def _end(self) -> Path:
        return self.folder / "end"

    def _stage(self, number: int) -> Path:
        return self.folder / f"stage-{number}.pickle"

    def _done_file(self, number: int) -> Path:
        return self.folder / f"done-{number}"


def launcher_of(
    announcements: Announcements, work_dir: Path, run: str, number: int
) -> Callable[..., None]:
    """Return what daisy starts in place of a worker: it announces where blocks are handed out.

    Parameters
    ----------
    announcements : Announcements
    work_dir : path
        Folder that the driver has locked.
    run : str
        `DriverLock.run` of the driver.
    number : int
        Number of the stage.

    Returns
    -------
    callable
        It lasts until the stage is finished, for daisy takes its end for the end of the workers.
    """

    def launch(*, context: Any) -> None:
        import daisy.v2 as daisy

        end_with_driver(work_dir, run)
        logging.getLogger("daisy").setLevel(logging.ERROR)  # it warns at the end of every stage
        context["worker_id"] = -1  # many workers share it, and daisy watches none of them
        announcements.announce(Announcement(number, context.to_env()))
        here = context.copy()
        here["hostname"] = "127.0.0.1"
        looks = 0
        while not announcements.is_finished(number):
            time.sleep(0.01)
            looks += 1
            # daisy takes no connections once every block is done or has failed for good
            if looks % 50 == 0 and not daisy.Client(here).connected:
                announcements.finish(number)

    return launch
