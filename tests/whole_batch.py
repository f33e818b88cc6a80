"""Loss and gradient of a batch in processes that have a patch each: whole_batch.py IN OUT COUNT."""

from __future__ import annotations

import multiprocessing
import os
import sys

import torch
import torch.distributed as dist

from synpol.config import Loss
from synpol.model import build_loss
from synpol.polarity import Channels

TERMS = Loss(bce=1, dice=1, side_contrast=1, non_overlap=1)


def of_process(rank: int, count: int, source: str, output: str) -> None:
    """Write the means over the processes, for networks that are exclusive and that are not."""
    if count > 1:
        where = f"file://{output}.store"
        dist.init_process_group("gloo", init_method=where, rank=rank, world_size=count)
    means = []
    for exclusive, batch in torch.load(source, weights_only=True).items():
        logits, target, weights = (part[rank : rank + 1] if count > 1 else part for part in batch)
        scale = torch.ones(3, requires_grad=True)  # a parameter that all processes have
        loss = build_loss(TERMS, Channels.of(exclusive == "exclusive"), True)
        total, _ = loss(logits * scale[:, None, None, None], target, weights)
        total.backward()
        assert scale.grad is not None
        mean = torch.cat([total.detach()[None], scale.grad])
        if count > 1:  # what DistributedDataParallel does with gradients
            dist.all_reduce(mean)
            mean /= count
        means.append(mean)
    torch.save(torch.stack(means), f"{output}.{rank}")
    if count > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    fork = multiprocessing.get_context("fork")
    processes = [
        fork.Process(target=of_process, args=(rank, int(sys.argv[3]), *sys.argv[1:3]))
        for rank in range(int(sys.argv[3]))
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    sys.exit(any(process.exitcode for process in processes))
