"""What a run would do: its stages with blocks, bytes and an estimate of time, and its jobs."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from synpol.blockwise.driver import runs_in_driver
from synpol.blockwise.grid import BlockGrid, index_of
from synpol.blockwise.schedulers import scheduler_of
from synpol.blockwise.stage import AnyStage
from synpol.config import Config, Workers
from synpol.decoding.reference import rescaled_shape
from synpol.decoding.rescale import rescaled_blocks
from synpol.decoding.stages import DecodeOptions, decoding_stages
from synpol.prediction.job import PredictJob


@dataclass(frozen=True)
class PlannedStage:
    """A stage that would be run.

    Attributes
    ----------
    name : str
    blocks : int
    read, written : int
        Bytes, before compression.
    seconds : float or None
        Estimate of the work of all blocks, to be shared by the workers; None: not known here.
    workers : int
        How many share it; 0: the driver does it itself.
    """

    name: str
    blocks: int
    read: int
    written: int
    seconds: float | None
    workers: int


def planned(
    stage: AnyStage,
    settings: Workers,
    num_workers: int,
    seconds: float | None,
    *,
    workers_run: bool = False,
) -> PlannedStage:
    """Say what a stage will do, and who will do it.

    Parameters
    ----------
    stage : Stage
        The stage.
    settings : Workers
        Where workers run.
    num_workers : int
        Number of workers at most.
    seconds : float or None
        Estimate of the work of all blocks.
    workers_run : bool
        Whether an earlier stage has started the workers.
    """
    alone = runs_in_driver(
        stage.count,
        stage.cost,
        num_workers,
        remote=scheduler_of(settings).remote,
        workers_run=workers_run,
        for_workers=stage.for_workers,
    )
    return PlannedStage(
        name=stage.name,
        blocks=stage.count,
        read=stage.bytes_read,
        written=stage.bytes_written,
        seconds=seconds,
        workers=0 if alone else num_workers,
    )


def plan_prediction(job: PredictJob) -> PlannedStage:
    """Plan a prediction; runs a few windows to measure time, where this machine is like a worker.

    Where workers have GPUs that this machine may lack, the time is not known.
    """
    seconds = None
    if not job.gpus:
        seconds = job.windows_in(job.blocks) * _seconds_a_window(job)
    return planned(job.stage(job.output), job.settings, job.num_workers, seconds)


def _seconds_a_window(job: PredictJob) -> float:
    import torch

    from synpol.model.device import choose_device, number_of_threads

    device = choose_device(job.device)
    network = job.network.on(device)
    batch = job.predict.batch_size
    threads = job.settings.cores_of(job.num_workers) if device.type == "cpu" else 0
    with number_of_threads(threads), torch.inference_mode():
        windows = torch.rand((batch, 1, *job.windows.window), device=device)
        for _ in range(2):  # the first is slower
            started = time.perf_counter()
            network(windows).cpu()
    return (time.perf_counter() - started) / batch


def plan_decoding(
    shape: tuple[int, int, int], dtype: np.dtype, config: Config
) -> list[PlannedStage]:
    """Plan the stages of a decoding.

    Parameters
    ----------
    shape : (int, int, int)
        Shape of the volume, voxels.
    dtype : dtype
        Type of the polarity array.
    config : Config
        The config.
    """
    decode = config.decode
    blocks = BlockGrid.of(shape, decode.block_shape)
    resized = rescaled_shape(shape, decode.scale_factors)
    stages = decoding_stages(
        prediction="",
        dtype=dtype,
        output="",
        folder=Path(),
        blocks=blocks,
        target=blocks if resized == shape else rescaled_blocks(blocks, index_of(resized)),
        options=DecodeOptions(
            blocks.block, exclusive=config.exclusive, semantic=decode.semantic, sides=decode.sides
        ),
    )
    plan: list[PlannedStage] = []
    for stage in stages:
        workers_run = any(earlier.workers for earlier in plan)
        settings = config.workers
        plan.append(
            planned(
                stage,
                settings,
                settings.num_workers,
                stage.estimated_seconds,
                workers_run=workers_run,
            )
        )
    return plan


def table(stages: list[PlannedStage]) -> str:
    """Stages as a table for people."""
    lines = [f"{'stage':<12}{'blocks':>10}{'reads':>12}{'writes':>12}{'by':>14}{'about':>12}"]
    for stage in stages:
        by = f"{stage.workers} workers" if stage.workers else "the driver"
        shared = None if stage.seconds is None else stage.seconds / max(1, stage.workers)
        lines.append(
            f"{stage.name:<12}{stage.blocks:>10}{_bytes(stage.read):>12}"
            f"{_bytes(stage.written):>12}{by:>14}{_duration(shared):>12}"
        )
    return "\n".join(lines)


def job_text(settings: Workers, count: int, gpus: int) -> str:
    """The job that would be submitted for each worker."""
    remote = scheduler_of(settings).remote
    if not remote and count == 1:
        return "no job, this process does it"
    from synpol.blockwise.submission import submission_of, worker_script

    cores = settings.cores_of(count)
    script = worker_script(settings, cores, Path("WORK_DIR"), "RUN")
    if not remote:
        return f"{count} processes on this machine, each:\n\n{script}"
    with tempfile.TemporaryDirectory() as folder:
        command = ["/bin/bash", "worker.sh", "synpol-0"]
        submitted = submission_of(settings, cores, gpus, command, Path(folder))
    lines = [line for line in submitted.splitlines() if line.startswith("#")]
    return "\n".join(
        [f"{count} jobs of {settings.executor}, each:", "", *lines, *script.splitlines()[1:]]
    )


def _bytes(count: int) -> str:
    if not count:
        return "records"
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if count < 1000 or unit == "PB":
            break
        count /= 1000  # type: ignore[assignment]
    return f"{count:.3g} {unit}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "not known"
    if seconds < 90:
        return f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
