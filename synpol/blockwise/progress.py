"""Show how far a run is: a bar for each stage, and ``status.json`` for other programs."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from tqdm import tqdm

from synpol.blockwise.stage import AnyStage
from synpol.files import write_whole

_BAR: dict[str, Any] = {"mininterval": 0.5 if sys.stderr.isatty() else 10, "leave": False}


class Status:
    """Write ``status.json`` of a run, for other programs, every second or two.

    Its keys are ``what``, ``state`` (running, done, failed, interrupted), ``started`` and
    ``updated`` (local time), ``stages`` (name, blocks and seconds of those that are finished),
    ``stage`` (name, blocks done and in all, blocks failed, voxels per second, seconds left, workers
    alive), and ``error``.

    Parameters
    ----------
    path : Path
        Path of the file.
    what : str
        What the run does, for people.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        self.content: dict[str, Any] = {
            "what": what,
            "state": "running",
            "started": time.strftime("%Y-%m-%d %H:%M:%S"),
            "updated": None,
            "stages": [],
            "stage": None,
            "error": None,
        }
        self._written = 0.0

    def show(self, stage: dict[str, Any] | None, now: bool = False) -> None:
        """Say how far the stage is that runs; written at once, or within a second or two."""
        self.content["stage"] = stage
        if now or time.monotonic() - self._written > 1:
            self._written = time.monotonic()
            self.content["updated"] = time.strftime("%Y-%m-%d %H:%M:%S")
            with contextlib.suppress(OSError):  # the run itself decides what a full disk means
                write_whole(self.path, json.dumps(self.content, indent=1).encode(), sync=False)

    def add_finished(self, name: str, blocks: int, seconds: float) -> None:
        """Add a stage that is finished, with the blocks that it had to do and its time."""
        self.content["stages"].append(
            {"name": name, "blocks": blocks, "seconds": round(seconds, 1)}
        )

    def end(self, error: BaseException | None) -> None:
        """Say how the run ended; None is success."""
        interrupted = isinstance(error, KeyboardInterrupt)
        state = "done" if error is None else "interrupted" if interrupted else "failed"
        self.content["state"] = state
        self.content["error"] = None if error is None or interrupted else str(error)
        self.show(None, now=True)


class Progress:
    """Show the blocks of a stage as one bar and in the status file; also an observer of daisy.

    Parameters
    ----------
    stage : Stage
    skipped : int
        Number of blocks that were done before.
    status : Status
    """

    def __init__(self, stage: AnyStage, skipped: int, status: Status) -> None:
        self.stage, self.skipped, self.status = stage, skipped, status
        self.started = time.monotonic()
        self.done, self.failed = skipped, 0
        self._alive: Callable[[], int] | None = None
        self._note: Callable[[int], None] | None = None

    def __enter__(self) -> Self:
        few = self.stage.count - self.skipped < 8
        self.bar = tqdm(
            total=self.stage.count,
            initial=self.skipped,
            desc=self.stage.name,
            unit="block",
            disable=few,
            **_BAR,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
        self.status.add_finished(self.stage.name, self.done - self.skipped, self.seconds())

    def by_workers(self, alive: Callable[[], int], note: Callable[[int], None]) -> None:
        """Note that workers do the blocks from now on.

        Parameters
        ----------
        alive : callable
            Returns the number of workers that run.
        note : callable
            Gets the number of blocks that are finished, whenever daisy says it.
        """
        self._alive, self._note = alive, note

    def seconds(self) -> float:
        """Return the time since the stage began."""
        return time.monotonic() - self.started

    def add(self) -> None:
        """Note that one more block is done."""
        self._show(self.done + 1)

    def _show(self, done: int) -> None:
        self.bar.update(done - self.done)
        self.done = done
        rate = (done - self.skipped) / max(self.seconds(), 1e-9)
        voxels = rate * self.stage.block_voxels
        alive = None if self._alive is None else self._alive()
        parts = [f"{voxels / 1e6:.1f} Mvoxel/s"] if voxels else []
        parts += [f"{alive} workers"] if alive is not None else []
        parts += [f"{self.failed} failed"] if self.failed else []
        self.bar.set_postfix_str(", ".join(parts), refresh=False)
        left = (self.stage.count - done) / rate if rate else None
        self.status.show(
            {
                "name": self.stage.name,
                "blocks_done": done,
                "blocks": self.stage.count,
                "blocks_failed": self.failed,
                "voxels_per_second": round(voxels) if voxels else None,
                "seconds_left": None if left is None else round(left, 1),
                "workers_alive": alive,
            }
        )

    def on_start(self, states: Any) -> None:
        """Do nothing: daisy begins."""

    def on_progress(self, states: Any) -> None:
        """Show what daisy says every half a second."""
        state = states[self.stage.name]
        self.failed = state.failed_count
        if self._note is not None:
            self._note(state.completed_count + state.failed_count)
        self._show(state.completed_count)

    def on_finish(self, states: Any) -> None:
        """Show what daisy says at the end."""
        self._show(states[self.stage.name].completed_count)
