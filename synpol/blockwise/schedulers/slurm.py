"""SLURM."""

from __future__ import annotations

from typing import TYPE_CHECKING

from synpol.blockwise.schedulers import Request, Scheduler, register

if TYPE_CHECKING:
    import psij

    from synpol.config import Workers


@register
class Slurm(Scheduler):
    """Submit workers with sbatch."""

    name = "slurm"
    dialect = "slurm"

    def executor_class(self) -> type[psij.JobExecutor]:
        from psij.executors.batch.slurm import SlurmJobExecutor

        return SlurmJobExecutor

    def request(self, settings: Workers, cores: int, gpus: int, name: str) -> Request:
        import psij

        resources = psij.ResourceSpecV1(
            cpu_cores_per_process=cores,
            gpu_cores_per_process=gpus or None,
            memory=settings.memory_bytes,
        )
        return Request({"job-name": name}, settings.account, resources)

    def readable_queue(self, exit_code: int, text: str) -> str:
        """Replace every reason by one that psij knows.

        psij reads no job's state while one of them has a reason of several words, or one that is
        not in its list.
        """
        rows = [line.split(maxsplit=2) for line in text.splitlines()]
        known = [[*row[:2], "NonZeroExitCode"] for row in rows if len(row) >= 2]
        return "\n".join(map(" ".join, known)) + "\n"
