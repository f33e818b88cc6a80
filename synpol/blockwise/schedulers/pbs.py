"""PBS Professional and OpenPBS."""

from __future__ import annotations

from typing import TYPE_CHECKING

from synpol.blockwise.schedulers import Request, Scheduler, register

if TYPE_CHECKING:
    import psij

    from synpol.config import Workers


@register
class Pbs(Scheduler):
    """Submit workers with qsub."""

    name = "pbs"
    dialect = "pbs"

    def executor_class(self) -> type[psij.JobExecutor]:
        from psij.executors.batch.pbs import PBSJobExecutor

        return PBSJobExecutor

    def request(self, settings: Workers, cores: int, gpus: int, name: str) -> Request:
        """Ask by an option: psij's own request has no GPUs."""
        select = f"select=1:ncpus={cores}"
        select += f":ngpus={gpus}" if gpus else ""
        select += f":mem={settings.memory_bytes // 2**20}mb" if settings.memory_bytes else ""
        return Request({"N": name, "l": select}, settings.account)
