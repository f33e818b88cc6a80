"""Processes that train one network together, each on its part of every batch.

``torchrun --nproc-per-node N pipelines/train.py CONFIG`` starts N of them on a machine; its other
options take in more machines. torch averages the gradients (`DistributedDataParallel`), so what is
learned is what one process would learn from the whole batch.
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
        Of this process.
    rank, size : int
        Its number, from 0 on, and how many there are.
    waiting : torch.distributed.ProcessGroup or None
        In which processes may wait long for one that validates.
    """

    device: torch.device
    rank: int = 0
    size: int = 1
    waiting: Any = None

    @property
    def is_first(self) -> bool:
        """Whether this one writes what all have learned."""
        return self.rank == 0

    def together(self, model: torch.nn.Module) -> torch.nn.Module:
        """The network as it is to be called in training; its parameters stay those of `model`."""
        if self.size == 1:
            return model
        return DistributedDataParallel(
            model, [self.device.index] if self.device.type == "cuda" else None
        )

    def sums(self, values: Sequence[float]) -> list[float]:
        """Add up numbers over all processes."""
        if self.size == 1:
            return list(values)
        added = torch.tensor(list(values), dtype=torch.float64, device=self.device)
        dist.all_reduce(added)
        return added.tolist()

    def any(self, value: bool) -> bool:
        """Whether it is true for any process."""
        return self.sums([float(value)])[0] > 0

    def wait(self) -> None:
        """Wait for all others, however long they take."""
        if self.size > 1:
            dist.barrier(self.waiting)


@contextlib.contextmanager
def joined(config: Config) -> Iterator[Processes]:
    """Join the others where torchrun has started several.

    Raises
    ------
    InputError
        They cannot share a batch, or the device is not there.
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
