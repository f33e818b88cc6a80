"""Convolve volumes with 5/9 of the multiplications, for training on a CPU.

Three sections that a kernel of three sections makes depend on five sections of the input, by nine
convolutions in plane. Toom and Cook multiply polynomials of so many coefficients with five
products: mix the five, multiply, and mix the products. Here a product is a convolution in plane,
so mixing costs little where channels are many. See Lavin and Gray, "Fast algorithms for
convolutional neural networks", arXiv:1509.09308.

The result is the same but for rounding. Prediction always convolves directly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

type Matrix = tuple[tuple[float, ...], ...]

# polynomials at the points 0, 1, -1, 2 and infinity: sections of the input, of the kernel, and back
_SECTIONS: Matrix = (
    (2, -1, -2, 1, 0),
    (0, -2, -1, 1, 0),
    (0, 2, -3, 1, 0),
    (0, -1, 0, 1, 0),
    (0, 2, -1, -2, 1),
)
_KERNEL: Matrix = (
    (1 / 2, 0, 0),
    (-1 / 2, -1 / 2, -1 / 2),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 6, 1 / 3, 2 / 3),
    (0, 0, 1),
)
_PRODUCTS: Matrix = (
    (1, 1, 1, 1, 0),
    (0, 1, -1, 2, 0),
    (0, 1, 1, 4, 1),
)

#: number of channels, before or after, from which on mixing costs less than it saves
MANY_CHANNELS = 36


def convolve_by_threes(model: nn.Module) -> None:
    """Let a network that trains on a CPU convolve three sections at a time, where that is quicker.

    Weights and their names stay as they are.
    """
    for module in model.modules():
        for name, child in module.named_children():
            if (
                isinstance(child, nn.Conv3d)
                and child.kernel_size == (3, 3, 3)
                and max(child.in_channels, child.out_channels) >= MANY_CHANNELS
            ):
                setattr(module, name, ByThrees(child.weight))


class ByThrees(nn.Module):
    """A convolution with a (3, 3, 3) kernel that keeps the size, three sections at a time.

    Parameters
    ----------
    weight : (width, width_in, 3, 3, 3) parameter
        Weights of the kernel.
    """

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve (batch, width_in, z, y, x)."""
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        result: torch.Tensor = _Convolution.apply(x, self.weight)
        return result


class _Convolution(torch.autograd.Function):
    """The convolution and its gradient; between the two only the input is kept."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        products = [
            functional.conv2d(images, kernel, padding=1)
            for images, kernel in zip(
                _mixed_images(x), _mixed_kernels(weight, x.dtype), strict=True
            )
        ]
        result = _empty(x, weight.shape[0], 3 * _threes(x))
        parts = [_sections(images, x.shape[0]) for images in products]
        for k, row in enumerate(_PRODUCTS):
            result[:, k::3] = _mix(row, parts)
        return result[:, : x.shape[2]].movedim(-1, 1)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, weight = ctx.saved_tensors
        threes = _threes(x)
        wanted = gradient.movedim(1, -1)
        wanted = functional.pad(wanted, (0, 0) * 3 + (0, 3 * threes - x.shape[2]))
        rows = [wanted[:, k::3] for k in range(3)]
        of_x = _empty(x, x.shape[1], 3 * threes + 2).zero_()
        of_weight = torch.zeros_like(weight)
        kernels = _mixed_kernels(weight, x.dtype)
        for j, (images, kernel) in enumerate(zip(_mixed_images(x), kernels, strict=True)):
            of_product = _mix([row[j] for row in _PRODUCTS], rows)
            of_images, of_kernel, _ = torch.ops.aten.convolution_backward(
                *(_images(of_product), images, kernel, None, [1, 1], [1, 1], [1, 1]),
                *(False, [0, 0], 1, [True, True, False]),
            )
            of_sections = _sections(of_images, x.shape[0])
            for k, factor in enumerate(_SECTIONS[j]):
                if factor:
                    of_x[:, k : k + 3 * threes - 2 : 3].add_(of_sections, alpha=factor)
            for k, factor in enumerate(_KERNEL[j]):
                if factor:
                    of_weight[:, :, k].add_(of_kernel, alpha=factor)
        return of_x[:, 1 : 1 + x.shape[2]].movedim(-1, 1), of_weight


def _threes(x: torch.Tensor) -> int:
    return -(-x.shape[2] // 3)


def _empty(x: torch.Tensor, channels: int, sections: int) -> torch.Tensor:
    return x.new_empty((x.shape[0], sections, *x.shape[3:], channels))


def _mix(row: Sequence[float], parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the sum of parts, each times a factor; of the factors one is 1."""
    first = row.index(1)
    mixed = None
    for k, factor in enumerate(row):
        if factor and k != first:
            if mixed is None:
                mixed = torch.add(parts[first], parts[k], alpha=factor)
            else:
                mixed.add_(parts[k], alpha=factor)
    return parts[first] if mixed is None else mixed


def _mixed_images(x: torch.Tensor) -> list[torch.Tensor]:
    """Return the five mixtures of sections, each of all threes as a batch of images."""
    threes = _threes(x)
    padding = (0, 0) * 3 + (1, 3 * threes + 1 - x.shape[2])
    padded = functional.pad(x.movedim(1, -1), padding)
    parts = [padded[:, k : k + 3 * threes - 2 : 3] for k in range(5)]
    return [_images(_mix(row, parts)) for row in _SECTIONS]


def _mixed_kernels(weight: torch.Tensor, dtype: torch.dtype) -> list[torch.Tensor]:
    """Return the five mixtures of the sections of a kernel."""
    mixed = torch.einsum("jk,oikyx->joiyx", weight.new_tensor(_KERNEL), weight).to(dtype)
    return [kernel.contiguous(memory_format=torch.channels_last) for kernel in mixed]


def _images(sections: torch.Tensor) -> torch.Tensor:
    """Return (batch, z, y, x, channels) as a batch of images, channels last in memory."""
    return sections.flatten(0, 1).movedim(-1, 1)


def _sections(images: torch.Tensor, batch: int) -> torch.Tensor:
    """Return a batch of images as (batch, z, y, x, channels)."""
    return images.movedim(1, -1).unflatten(0, (batch, -1))
