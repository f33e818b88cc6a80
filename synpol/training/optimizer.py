"""Build the optimizer and its learning rate from the config."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from synpol.config import Train


def learning_rate_factor(train: Train) -> Callable[[int], float]:
    """Return the learning rate at an iteration, as a factor of `lr`.

    It rises linearly during the warm-up, then falls along a cosine from `lr` to `lr_min`.
    """

    def factor(iteration: int) -> float:
        if iteration < train.warmup:
            return (iteration + 1) / train.warmup
        done = (iteration - train.warmup) / max(1, train.iterations - train.warmup)
        low = train.lr_min / train.lr
        return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    return factor


def build_optimizer(model: torch.nn.Module, train: Train) -> torch.optim.Optimizer:
    """Build the optimizer of a config, without weight decay on norms and biases."""
    groups = _parameter_groups(model, train.weight_decay)
    if train.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=train.lr, momentum=train.momentum)
    return torch.optim.AdamW(groups, lr=train.lr)


def _parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    decayed = [p for p in model.parameters() if p.ndim > 1]
    free = [p for p in model.parameters() if p.ndim <= 1]  # norms and biases
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
