"""Submission of worker jobs to any scheduler, through psij-python.

The scripts that psij-python 0.9.11 writes are mended here, as far as the same is wrong for all
schedulers; what is wrong for one of them is said in its module in `schedulers/`.
"""

from __future__ import annotations

import io
import re
import sys
from datetime import timedelta
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import psij
from psij.executors.batch.batch_scheduler_executor import (
    BatchSchedulerExecutor,
    BatchSchedulerExecutorConfig,
)

from synpol.blockwise.schedulers import Scheduler, scheduler_of

if TYPE_CHECKING:
    from synpol.config import Workers

#: seconds between looks at a scheduler's queue
POLL = 5
#: an option, or the name of a file, that psij put into quotes twice
_QUOTED_TWICE = re.compile(r"""^(#[A-Z]+ .*|.*>+ )"'([^']*)'(.*)"$""", re.MULTILINE)
#: an option without a value
_FLAG = re.compile(r"""^(#[A-Z]+ -\S+?)[= ]"True"$""", re.MULTILINE)


class _Direct(psij.Launcher):
    """Run a command as it is; psij's own launcher stumbles over blanks in paths."""

    def get_launch_command(self, job: psij.Job) -> list[str]:
        spec: Any = job.spec
        return [str(spec.executable), *spec.arguments]

    def is_launcher_failure(self, output: str) -> bool:
        return False

    def get_launcher_failure_message(self, output: str) -> str:
        return output


class _Launching:
    """Launch nothing: every worker is one process on one machine."""

    def _get_launcher(self, name: str, version_constraint: str | None = None) -> psij.Launcher:
        return _Direct()


class _Mended(_Launching):
    """Write scripts that hold what `job_of` asks for and nothing else.

    psij quotes the values of options twice, which leaves quotation marks in values that are not
    single words, and asks for resources by itself where none are given.
    """

    scheduler: Scheduler

    def _check_job(self, job: Any) -> psij.JobSpec:
        resources = job.spec.resources
        spec = super()._check_job(job)  # type: ignore[misc]
        spec.resources = resources
        return spec

    def generate_submit_script(self, job: Any, context: dict[str, object], file: Any) -> None:
        text = io.StringIO()
        super().generate_submit_script(job, context, text)  # type: ignore[misc]
        mended = _QUOTED_TWICE.sub(r'\1"\2\3"', text.getvalue())
        file.write(_FLAG.sub(r"\1", mended))

    def get_submit_command(self, job: psij.Job, submit_file_path: Path) -> list[str]:
        own = self.scheduler.submit_command(submit_file_path)
        return own or super().get_submit_command(job, submit_file_path)  # type: ignore[misc]

    def parse_status_output(self, exit_code: int, out: str) -> dict[str, psij.JobStatus]:
        readable = self.scheduler.readable_queue(exit_code, out)
        return super().parse_status_output(exit_code, readable)  # type: ignore[misc]


def mended_class(scheduler: Scheduler) -> type[psij.JobExecutor]:
    """Return the class of psij that submits to a scheduler, mended."""
    base = scheduler.executor_class()
    mends = _Mended if issubclass(base, BatchSchedulerExecutor) else _Launching
    return type(base.__name__, (mends, base), {"_NAME_": scheduler.name, "scheduler": scheduler})


def executor_of(settings: Workers, folder: Path) -> psij.JobExecutor:
    """Return what submits, cancels and watches jobs.

    Parameters
    ----------
    settings : Workers
    folder : Path
        Folder for scripts and exit codes; the machines that run jobs see it too.
    """
    config = BatchSchedulerExecutorConfig(
        work_directory=folder,
        queue_polling_interval=POLL,
        initial_queue_polling_delay=1,
        queue_polling_error_threshold=10**6,  # a scheduler that is away says nothing about jobs
    )
    return mended_class(scheduler_of(settings))(None, config)


def job_of(settings: Workers, cores: int, gpus: int, command: list[str], name: str) -> psij.Job:
    """Return a job that runs a worker.

    Parameters
    ----------
    settings : Workers
    cores, gpus : int
        Cores and GPUs of the job.
    command : list of str
    name : str
        Name of the job.
    """
    scheduler = scheduler_of(settings)
    request = scheduler.request(settings, cores, gpus, name)
    given = {k: str(v) for k, v in settings.options.items() if v is not False}
    options = request.options | given
    attributes = psij.JobAttributes(
        duration=timedelta(minutes=settings.walltime),
        queue_name=settings.queue,
        account=request.account,
        custom_attributes={f"{scheduler.dialect}.{k}": v for k, v in options.items()},
    )
    spec = psij.JobSpec(
        executable=command[0],
        arguments=command[1:],
        directory=Path.cwd(),
        resources=request.resources,
        attributes=attributes,
    )
    return psij.Job(spec)


def submission_of(
    settings: Workers, cores: int, gpus: int, command: list[str], folder: Path
) -> str:
    """Return the script that would be submitted to a cluster, for people to look at."""
    executor: Any = executor_of(settings, folder)
    job = job_of(settings, cores, gpus, command, "synpol-0")
    text = io.StringIO()
    executor.generate_submit_script(job, executor._create_script_context(job), text)
    return text.getvalue()


def worker_script(settings: Workers, cores: int, work_dir: Path, run: str) -> str:
    """Write a shell script that sets the environment up and becomes a worker.

    Its argument is the name of the worker's log files.
    """
    logs = quote(str(work_dir / "logs"))
    seconds = settings.walltime * 60 if scheduler_of(settings).remote else 0
    lines = [
        "#!/bin/bash",
        f'exec >{logs}/"$1.out" 2>{logs}/"$1.err"',
        "set -e",
        *settings.setup,
        f"export OMP_NUM_THREADS={cores} ZARR_THREADING__MAX_WORKERS={cores}",
        f"exec {quote(sys.executable)} -m synpol.blockwise.worker "
        f"{quote(str(work_dir))} {run} {seconds}",
    ]
    return "\n".join(lines) + "\n"
