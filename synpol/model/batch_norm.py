"""Normalise batches of few channels faster, for training on a CPU in float32.

Each thread of PyTorch's batch norm adds up sums of its own. Where channels are last in memory and
do not fill whole cache lines, the sums of two threads share a line, and the threads wait for each
other: two take longer than one. Here some neighbouring voxels count as one voxel with so many more
channels that cache lines are full; their means and variances are those of the channels after a
step that is small.

The result is the same but for rounding.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

#: bytes of a cache line
LINE = 64


def normalise_by_lines(model: nn.Module) -> None:
    """Let a network that trains on a CPU normalise so that threads share no cache line.

    Weights, running statistics and their names stay as they are.
    """
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm3d and _voxels_of_a_line(child.num_features) > 1:
                setattr(module, name, ByLines(child))


def _voxels_of_a_line(channels: int) -> int:
    """Return how many voxels of float32 fill whole cache lines."""
    size = 4 * channels
    return math.lcm(size, LINE) // size


class ByLines(nn.BatchNorm3d):
    """A batch norm that takes several voxels at a time.

    Parameters
    ----------
    norm : nn.BatchNorm3d
        Batch norm whose weights and running statistics this one has.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor

    def __init__(self, norm: nn.BatchNorm3d) -> None:
        momentum = norm.momentum
        if momentum is None or norm.running_mean is None or norm.weight is None:
            raise ValueError("the batch norm has no momentum, no running statistics or no weights")
        super().__init__(norm.num_features, norm.eps, momentum)
        self.weight, self.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers():
            setattr(self, name, buffer)
        self.step = float(momentum)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise (batch, channels, z, y, x)."""
        voxels = x.numel() // x.shape[1]
        together = _voxels_of_a_line(x.shape[1])
        whole = voxels % together == 0 and x.is_contiguous(memory_format=torch.channels_last_3d)
        if not (self.training and x.dtype == torch.float32 and whole):
            return super().forward(x)
        result, mean, variance = _Normalisation.apply(x, self.weight, self.bias, self.eps, together)
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.step)
            self.running_var.lerp_(variance * (voxels / (voxels - 1)), self.step)
        normalised: torch.Tensor = result
        return normalised


class _Normalisation(torch.autograd.Function):
    """The normalisation with its mean and variance, and its gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float, n: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rows = _rows(x, n)
        one, zero = torch.ones(rows.shape[1]), torch.zeros(rows.shape[1])
        normalised, means, factors = torch.native_batch_norm(
            rows, one, zero, None, None, True, 0.0, eps
        )
        means, factors = (each.double().view(n, -1) for each in (means, factors))
        mean = means.mean(0)
        variance = (factors**-2 - eps + (means - mean) ** 2).mean(0).clamp(min=0)
        factor = (variance + eps).rsqrt()
        slope = (factor * weight / factors).flatten().float()
        shift = ((means - mean) * factor * weight + bias).flatten().float()
        result = torch.empty_like(x)  # no view of another tensor: an activation may overwrite it
        torch.addcmul(shift, normalised, slope, out=_rows(result, n))
        mean, variance, factor = (each.float() for each in (mean, variance, factor))
        ctx.save_for_backward(x, weight, mean, factor)
        ctx.n, ctx.eps = n, eps
        ctx.mark_non_differentiable(mean, variance)
        return result, mean, variance

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
        x, weight, mean, factor = ctx.saved_tensors
        n: int = ctx.n
        layout = torch.channels_last_3d
        rows, wanted = _rows(x, n), _rows(gradient.contiguous(memory_format=layout), n)
        _, of_weights, of_biases = torch.ops.aten.native_batch_norm_backward(
            *(wanted, rows, torch.ones(rows.shape[1]), None, None, mean.repeat(n)),
            *(factor.repeat(n), True, ctx.eps, [False, True, True]),
        )
        of_weight, of_bias = (each.double().view(n, -1).sum(0) for each in (of_weights, of_biases))
        voxels = rows.shape[0] * n
        of_wanted = weight * factor.double()
        of_x = -of_wanted * factor * of_weight / voxels
        constant = -of_wanted * of_bias / voxels - of_x * mean
        of_wanted, of_x, constant = (each.float().repeat(n) for each in (of_wanted, of_x, constant))
        result = torch.empty_like(x)
        torch.addcmul(constant, rows, of_x, out=_rows(result, n)).addcmul_(wanted, of_wanted)
        return result, of_weight.float(), of_bias.float(), None, None


def _rows(x: torch.Tensor, n: int) -> torch.Tensor:
    """Return volumes, channels last, as a table with n voxels in each row."""
    return x.movedim(1, -1).reshape(-1, n * x.shape[1])
