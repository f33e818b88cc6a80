"""Processes that train one network together, each on its part of every batch.

``torchrun --nproc-per-node N pipelines/train.py CONFIG`` starts N of them on one machine; torchrun
has options for several machines. torch averages the gradients (`DistributedDataParallel`), so the
processes learn what one process would learn from the whole batch.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from synpol.config import Config
from synpol.errors import InputError
from synpol.model.device import choose_device


@dataclass(frozen=True)
class Processes:
    """This process among those that train together; by default it is alone.

    Attributes
    ----------
    device : torch.device
        Device of this process.
    rank : int
        Number of this process, from 0 on.
    size : int
        Number of processes.
    waiting : torch.distributed.ProcessGroup or None
        Process group with a long timeout, used while the first process validates.
    """

    device: torch.device
    rank: int = 0
    size: int = 1
    waiting: Any = None

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def together(self, model: torch.nn.Module) -> torch.nn.Module:
        """Return the network to call in training, which averages gradients over the processes.

        It shares its parameters with `model`.
        """
        if self.size == 1:
            return model
        return DistributedDataParallel(
            model, [self.device.index] if self.device.type == "cuda" else None
        )

    def sums(self, values: Sequence[float]) -> list[float]:
        """Return the sums of numbers over all processes."""
        if self.size == 1:
            return list(values)
        added = torch.tensor(list(values), dtype=torch.float64, device=self.device)
        dist.all_reduce(added)
        return added.tolist()

    def any(self, value: bool) -> bool:
        """Return whether a value is true in any process."""
        return self.sums([float(value)])[0] > 0

    def wait(self) -> None:
        """Wait for all other processes, for days if need be."""
        if self.size > 1:
            dist.barrier(self.waiting)


@contextlib.contextmanager
def joined(config: Config) -> Iterator[Processes]:
    """Join the other processes, if torchrun has started several.

    Yields
    ------
    Processes

    Raises
    ------
    InputError
        The processes cannot share a batch or a device, or this machine has no such device.
    """
    device = choose_device(config.device)
    if not dist.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1:
        yield Processes(device)
        return
    size, local = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"])
    if config.train.batch_size % size:
        raise InputError(
            f"train.batch_size is {config.train.batch_size}, which {size} processes cannot share "
            "evenly; choose a multiple of their number"
        )
    if device.type == "cuda":
        if device.index is not None:
            raise InputError(
                f"device is {config.device!r}, but torchrun gives every process a GPU of its own; "
                "use `device: auto`"
            )
        device = choose_device(f"cuda:{local}")
        torch.cuda.set_device(device)
    elif config.model.norm == "batch":
        raise InputError(
            "model.norm is batch, and torch keeps its statistics equal in several processes on "
            "GPUs only; use model.norm=group, or one process"
        )
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        waiting = dist.new_group(backend="gloo", timeout=timedelta(days=7))
        yield Processes(device, dist.get_rank(), size, waiting)
    finally:
        dist.destroy_process_group()
