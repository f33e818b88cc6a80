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
from synpol.blockwise.stage import VoxelStage
from synpol.config import Config, Workers
from synpol.decoding.dilate import DilateStage
from synpol.decoding.label import LabelStage
from synpol.decoding.merge import MergeStage
from synpol.decoding.number import NumberStage, ResolveStage
from synpol.decoding.reference import rescaled_shape
from synpol.decoding.relabel import RelabelStage
from synpol.decoding.rescale import RescaleStage, rescaled_blocks
from synpol.images.image import Image
from synpol.prediction.job import PredictJob
from synpol.prediction.stage import PredictStage, network_of

#: nanoseconds a voxel that a worker takes (two cores, docs/decoding_measured.md); others scale
LABEL, DILATE, RELABEL = 6.0, 3.5, 3.0
#: seconds a block, at the density of neuropil (the same page)
MERGE, NUMBER, RESOLVE = 8e-3, 2e-4, 5e-4


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


def plan_prediction(job: PredictJob) -> PlannedStage:
    """The prediction; its time is measured with a few windows, where this machine is like a worker.

    Its network is run for a moment.
    """
    voxels = int(np.prod(job.part.shape))
    count = int(np.prod(job.blocks.grid))
    seconds = None
    if not job.gpus:
        windows = job.windows.count_in(job.blocks, job.part.begin)
        seconds = windows * _seconds_a_window(job)
    read = voxels * job.source.array.dtype.itemsize
    alone = runs_in_driver(
        count,
        _cost(PredictStage, job.blocks),
        job.workers,
        remote=scheduler_of(job.config.workers).remote,
        for_workers=PredictStage.for_workers,
    )
    return PlannedStage("predict", count, read, 3 * voxels, seconds, 0 if alone else job.workers)


def _seconds_a_window(job: PredictJob) -> float:
    import torch

    from synpol.model.device import choose_device
    from synpol.model.trained import load_trained

    device = choose_device(job.config.device)
    network = network_of(load_trained(job.checkpoint, job.config).model, job.config, device)
    batch = job.config.predict.batch_size
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(job.config.workers.cores_of(job.workers))
    try:
        with torch.inference_mode():
            windows = torch.rand((batch, 1, *job.windows.window), device=device)
            for _ in range(2):  # the first is slower
                started = time.perf_counter()
                network(windows).cpu()
    finally:
        torch.set_num_threads(before)
    return (time.perf_counter() - started) / batch


def plan_decoding(shape: tuple[int, int, int], itemsize: int, config: Config) -> list[PlannedStage]:
    """The stages of a decoding of a volume."""
    blocks = BlockGrid.of(shape, config.decode.block_shape)
    voxels, count = int(np.prod(shape)), int(np.prod(blocks.grid))
    workers = config.workers.num_workers
    cost = _cost(LabelStage, blocks)
    rows = [("label", count, 3 * voxels * itemsize, 0, voxels * LABEL / 1e9, cost)]
    cost = _cost(DilateStage, blocks)
    rows.append(("dilate", count, 0, 0, voxels * DILATE / 1e9, cost))
    groups = [int(np.prod(grid)) for grid in blocks.levels()[1:]]
    for level, jobs in enumerate(groups, 1):
        rows.append((f"merge {level}", jobs, 0, 0, jobs * MERGE, MergeStage.job_cost))
    rows.append(("number", blocks.grid[0], 0, 0, count * NUMBER, NumberStage.job_cost))
    for level, jobs in reversed(list(enumerate(groups, 1))):
        rows.append((f"resolve {level}", jobs, 0, 0, jobs * RESOLVE, ResolveStage.job_cost))
    cost = _cost(RelabelStage, blocks)
    rows.append(("relabel", count, 0, 8 * voxels, voxels * RELABEL / 1e9, cost))
    if set(config.decode.scale_factors) != {1}:
        target = rescaled_shape(shape, config.decode.scale_factors)
        out = rescaled_blocks(blocks, index_of(target))
        made, size, cost = int(np.prod(out.grid)), int(np.prod(target)), _cost(RescaleStage, out)
        rows.append(("rescale", made, 8 * voxels, 8 * size, size * RELABEL / 1e9, cost))
    remote = scheduler_of(config.workers).remote
    planned: list[PlannedStage] = []
    for name, jobs, read, written, seconds, cost in rows:
        there = any(stage.workers for stage in planned)
        alone = runs_in_driver(jobs, cost, workers, remote=remote, there=there)
        planned.append(PlannedStage(name, jobs, read, written, seconds, 0 if alone else workers))
    return planned


def _cost(stage: type[VoxelStage], blocks: BlockGrid) -> int:
    """What a block of a stage costs; see `VoxelStage.cost`."""
    return int(np.prod(blocks.block) * stage.voxel_cost)


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


def size_of(image: Image) -> tuple[tuple[int, int, int], int]:
    """Voxels and bytes a voxel of a polarity array."""
    z, y, x = image.shape_vx
    return (z, y, x), image.array.dtype.itemsize


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
