"""LSF."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from synpol.blockwise.schedulers import Request, Scheduler, register

if TYPE_CHECKING:
    import psij

    from synpol.config import Workers


@register
class Lsf(Scheduler):
    """Submit workers with bsub."""

    name = "lsf"
    dialect = "lsf"

    def executor_class(self) -> type[psij.JobExecutor]:
        from psij.executors.batch.lsf import LsfJobExecutor

        return LsfJobExecutor

    def request(self, settings: Workers, cores: int, gpus: int, name: str) -> Request:
        """Ask by options: psij asks for nodes, which only some LSF clusters know.

        The account is an option as well, since psij takes it for a group of users.
        """
        options = {"J": name, "n": str(cores), "R": "span[hosts=1]"}
        if gpus:
            options["gpu"] = f"num={gpus}"
        if settings.memory_bytes:
            options["M"] = f"{settings.memory_bytes // 2**20}MB"
        if settings.account:
            options["P"] = settings.account
        return Request(options)

    def submit_command(self, script: Path) -> list[str] | None:
        """Hand the script over by stdin: bsub reads options from a file only at some sites."""
        return ["/bin/sh", "-c", 'exec bsub < "$0"', str(script.absolute())]

    def readable_queue(self, exit_code: int, text: str) -> str:
        """Leave the reasons out: psij stumbles over a job that was ended for one."""
        report = json.loads(text) if exit_code == 0 else {}
        for job in report.get("RECORDS", []):
            job |= {key: "" for key in job if key.endswith("_REASON")}
        return json.dumps(report) if report else text
