"""This machine."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

from synpol.blockwise.schedulers import Request, Scheduler, register

if TYPE_CHECKING:
    import psij

    from synpol.config import Workers


@register
class Local(Scheduler):
    """Run workers as processes of this machine."""

    name = "local"
    dialect = "local"
    remote = False

    def executor_class(self) -> type[psij.JobExecutor]:
        from psij.executors.local import LocalJobExecutor

        return LocalJobExecutor

    def request(self, settings: Workers, cores: int, gpus: int, name: str) -> Request:
        return Request({})

    def cancel(self, job: psij.Job) -> None:
        """End a process at once: psij does so a moment later, when the driver may have ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(job.native_id), signal.SIGKILL)  # type: ignore[arg-type]
        super().cancel(job)
