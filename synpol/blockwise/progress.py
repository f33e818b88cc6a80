"""What a run shows while it goes on: a bar a stage, and ``status.json`` for other programs."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tqdm import tqdm

from synpol.blockwise.stage import AnyStage
from synpol.files import write_whole

if TYPE_CHECKING:
    from synpol.blockwise.pool import WorkerPool

_BAR: dict[str, Any] = {"mininterval": 0.5 if sys.stderr.isatty() else 10, "leave": False}


class Status:
    """``status.json`` of a run, for other programs; rewritten every second or two.

    Keys: ``what``, ``state`` (running, done, failed, interrupted), ``started`` and ``updated``
    (local time), ``stages`` (name, blocks, seconds of those that are over), ``stage`` (name,
    blocks done and in all, blocks failed, voxels per second, seconds left, workers alive), and
    ``error``.
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

    def tell(self, stage: dict[str, Any] | None, now: bool = False) -> None:
        self.content["stage"] = stage
        if now or time.monotonic() - self._written > 1:
            self._written = time.monotonic()
            self.content["updated"] = time.strftime("%Y-%m-%d %H:%M:%S")
            with contextlib.suppress(OSError):  # the run itself decides what a full disk means
                write_whole(self.path, json.dumps(self.content, indent=1).encode())

    def stage_over(self, name: str, blocks: int, seconds: float) -> None:
        self.content["stages"].append(
            {"name": name, "blocks": blocks, "seconds": round(seconds, 1)}
        )

    def end(self, error: BaseException | None) -> None:
        interrupted = isinstance(error, KeyboardInterrupt)
        state = "done" if error is None else "interrupted" if interrupted else "failed"
        self.content["state"] = state
        self.content["error"] = None if error is None or interrupted else str(error)
        self.tell(None, now=True)


class Progress:
    """Blocks of a stage as one bar and in the status file; also what daisy tells its progress."""

    def __init__(self, stage: AnyStage, skipped: int, status: Status) -> None:
        self.stage, self.skipped, self.status = stage, skipped, status
        self.started = time.monotonic()
        self.done, self.failed = skipped, 0
        self.pool: WorkerPool | None = None

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
        self.status.stage_over(self.stage.name, self.done - self.skipped, self.seconds())

    def attach(self, pool: WorkerPool) -> None:
        """From now on workers do the blocks."""
        self.pool = pool

    def seconds(self) -> float:
        return time.monotonic() - self.started

    def add(self) -> None:
        """One more block is done."""
        self._show(self.done + 1)

    def _show(self, done: int) -> None:
        self.bar.update(done - self.done)
        self.done = done
        rate = (done - self.skipped) / max(self.seconds(), 1e-9)
        voxels = rate * self.stage.block_voxels
        alive = None if self.pool is None else self.pool.alive()
        said = [f"{voxels / 1e6:.1f} Mvoxel/s"] if voxels else []
        said += [f"{alive} workers"] if alive is not None else []
        said += [f"{self.failed} failed"] if self.failed else []
        self.bar.set_postfix_str(", ".join(said), refresh=False)
        left = (self.stage.count - done) / rate if rate else None
        self.status.tell(
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
        """daisy begins."""

    def on_progress(self, states: Any) -> None:
        """daisy tells every half a second."""
        state = states[self.stage.name]
        self.failed = state.failed_count
        if self.pool is not None:
            self.pool.note_progress(state.completed_count + state.failed_count)
        self._show(state.completed_count)

    def on_finish(self, states: Any) -> None:
        """daisy ends."""
        self._show(states[self.stage.name].completed_count)
