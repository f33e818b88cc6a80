"""Submission of worker jobs: on this machine, or to SLURM, LSF or PBS, all through psij-python.

What differs between the schedulers is here, and mends of what psij-python 0.9.11 gets wrong with
two of them, each said where it is. A scheduler's options are rendered by psij.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import sys
from datetime import timedelta
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import psij
from psij.executors.batch.batch_scheduler_executor import BatchSchedulerExecutorConfig
from psij.executors.batch.lsf import LsfJobExecutor
from psij.executors.batch.pbs import PBSJobExecutor
from psij.executors.batch.slurm import SlurmJobExecutor
from psij.executors.local import LocalJobExecutor

if TYPE_CHECKING:
    from synpol.config import Workers

#: seconds between looks at a scheduler's queue
POLL = 5
_QUOTED_TWICE = re.compile(r"""^(#(?:SBATCH|BSUB|PBS) .*|.*>+ )"'([^']*)'(.*)"$""", re.MULTILINE)
#: an option without a value
_FLAG = re.compile(r"""^(#(?:SBATCH|BSUB|PBS) -\S+?)[= ]"True"$""", re.MULTILINE)


class _Direct(psij.Launcher):
    """Runs a command as it is; psij's own launcher stumbles over blanks in paths."""

    def get_launch_command(self, job: psij.Job) -> list[str]:
        spec: Any = job.spec
        return [str(spec.executable), *spec.arguments]

    def is_launcher_failure(self, output: str) -> bool:
        return False

    def get_launcher_failure_message(self, output: str) -> str:
        return output


class _Launching:
    """Every worker is one process on one machine, so nothing has to be launched."""

    def _get_launcher(self, name: str, version_constraint: str | None = None) -> psij.Launcher:
        return _Direct()


class _Local(_Launching, LocalJobExecutor):
    """This machine; psij kills from a thread a moment later, in which the driver may have ended."""

    _NAME_ = "local"

    def cancel(self, job: psij.Job) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(job.native_id), signal.SIGKILL)  # type: ignore[arg-type]
        super().cancel(job)


class _Mended(_Launching):
    """Writes scripts that hold what `job_of` asks for and nothing else.

    psij quotes the values of options twice, which leaves quotation marks in them where they are not
    single words, and asks for resources by itself where none are said.
    """

    def generate_submit_script(self, job: Any, context: dict[str, object], file: Any) -> None:
        if not isinstance(self, SlurmJobExecutor):
            job.spec.resources = None
        text = io.StringIO()
        super().generate_submit_script(job, context, text)  # type: ignore[misc]
        mended = _QUOTED_TWICE.sub(r'\1"\2\3"', text.getvalue())
        file.write(_FLAG.sub(r"\1", mended))


class _Slurm(_Mended, SlurmJobExecutor):
    """SLURM; a reason of several words, or one that psij does not know, ends its polling."""

    _NAME_ = "slurm"

    def parse_status_output(self, exit_code: int, out: str) -> dict[str, psij.JobStatus]:
        rows = [line.split(maxsplit=2) for line in out.splitlines()]
        known = [[*row[:2], "NonZeroExitCode"] for row in rows if len(row) >= 2]
        return super().parse_status_output(exit_code, "\n".join(map(" ".join, known)) + "\n")


class _Lsf(_Mended, LsfJobExecutor):
    """LSF; bsub reads options from a script that comes by stdin, from a file only at some sites.

    psij stumbles over a job that was ended for a reason, so reasons are left out.
    """

    _NAME_ = "lsf"

    def get_submit_command(self, job: psij.Job, submit_file_path: Path) -> list[str]:
        return ["/bin/sh", "-c", 'exec bsub < "$0"', str(submit_file_path.absolute())]

    def parse_status_output(self, exit_code: int, out: str) -> dict[str, psij.JobStatus]:
        report = json.loads(out) if exit_code == 0 else {}
        for job in report.get("RECORDS", []):
            job |= {key: "" for key in job if key.endswith("_REASON")}
        return super().parse_status_output(exit_code, json.dumps(report) if report else out)


class _Pbs(_Mended, PBSJobExecutor):
    _NAME_ = "pbs"


_EXECUTORS = {"local": _Local, "slurm": _Slurm, "lsf": _Lsf, "pbs": _Pbs}


def executor_of(settings: Workers, folder: Path) -> psij.JobExecutor:
    """What submits, cancels and watches jobs.

    Parameters
    ----------
    settings : Workers
    folder : Path
        For scripts and exit codes; the machines that run jobs see it too.
    """
    config = BatchSchedulerExecutorConfig(
        work_directory=folder,
        queue_polling_interval=POLL,
        initial_queue_polling_delay=1,
        queue_polling_error_threshold=10**6,  # a scheduler that is away says nothing about jobs
    )
    return _EXECUTORS[settings.executor](None, config)


def job_of(settings: Workers, cores: int, gpus: int, command: list[str], name: str) -> psij.Job:
    """A job that runs a worker.

    Parameters
    ----------
    settings : Workers
    cores, gpus : int
        That the job gets.
    command : list of str
    name : str
    """
    options = {k: str(v) for k, v in settings.options.items() if v is not False}
    account, resources = None, None
    if settings.executor == "slurm":
        options = {"job-name": name, **options}
        account = settings.account
        resources = psij.ResourceSpecV1(
            cpu_cores_per_process=cores,
            gpu_cores_per_process=gpus or None,
            memory=settings.memory_bytes,
        )
    elif settings.executor == "lsf":
        # psij asks for nodes, which only some LSF clusters know, and takes accounts for groups
        options = {
            "J": name,
            "n": str(cores),
            "R": "span[hosts=1]",
            **({"gpu": f"num={gpus}"} if gpus else {}),
            **({"M": f"{settings.memory_bytes // 2**20}MB"} if settings.memory_bytes else {}),
            **({"P": settings.account} if settings.account else {}),
            **options,
        }
    elif settings.executor == "pbs":  # psij's request has no GPUs
        select = f"select=1:ncpus={cores}"
        select += f":ngpus={gpus}" if gpus else ""
        select += f":mem={settings.memory_bytes // 2**20}mb" if settings.memory_bytes else ""
        options = {"N": name, "l": select, **options}
        account = settings.account
    attributes = psij.JobAttributes(
        duration=timedelta(minutes=settings.walltime),
        queue_name=settings.queue,
        account=account,
        custom_attributes={f"{settings.executor}.{k}": v for k, v in options.items()},
    )
    spec = psij.JobSpec(
        executable=command[0],
        arguments=command[1:],
        directory=Path.cwd(),
        resources=resources,
        attributes=attributes,
    )
    return psij.Job(spec)


def submission_of(
    settings: Workers, cores: int, gpus: int, command: list[str], folder: Path
) -> str:
    """The script that would be submitted to a cluster, for people to look at."""
    executor: Any = executor_of(settings, folder)
    job = job_of(settings, cores, gpus, command, "synpol-0")
    text = io.StringIO()
    executor.generate_submit_script(job, executor._create_script_context(job), text)
    return text.getvalue()


def worker_script(settings: Workers, cores: int, work_dir: Path, run: str) -> str:
    """A shell script that sets the environment up and becomes a worker; its argument is a name."""
    logs = quote(str(work_dir / "logs"))
    seconds = settings.walltime * 60 if settings.executor != "local" else 0
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
