"""Residual symmetric U-Net, the network of the EM-R50 recipe.

After Lee et al., "Superhuman accuracy on the SNEMI3D connectomics challenge", arXiv:1706.00120
(2017): pre-activation residual blocks, additive skips, bilinear upsampling and pooling in plane
only, because EM sections are thicker than their pixels are wide. The first level convolves in
plane only, (1, 3, 3), where a section is still several pixels thick.

One thing differs from the usual wiring: the image goes into a plain convolution. A norm and a ReLU
before it would remove every voxel darker than the mean, which are the membranes and densities.

Channels are mixed before upsampling, not after: both are linear, so the result is the same but for
rounding, and a quarter of the voxels is mixed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.nn import functional


def _norm(kind: str, channels: int) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm3d(channels)
    if kind == "group":
        groups = next(g for g in (8, 6, 4, 3, 2, 1) if channels % g == 0)
        return nn.GroupNorm(groups, channels)
    if kind == "instance":
        return nn.InstanceNorm3d(channels, affine=True)
    return nn.Identity()


def _activation(kind: str, inplace: bool = True) -> nn.Module:
    return {
        "relu": lambda: nn.ReLU(inplace),
        "leaky_relu": lambda: nn.LeakyReLU(0.01, inplace),
        "elu": lambda: nn.ELU(1.0, inplace),
        "prelu": lambda: nn.PReLU(init=0.25),
    }[kind]()


class _Block(nn.Module):
    """Change the width by a convolution, then add a residual pair, then convolve once more.

    Without `residual` it has no such pair, so that two convolutions are left of four.
    """

    def __init__(
        self,
        width_in: int,
        width: int,
        kernel: tuple[int, int, int],
        norm: str,
        activation: str,
        residual: bool,
    ) -> None:
        super().__init__()

        def conv(channels: int) -> nn.Sequential:
            return nn.Sequential(
                _norm(norm, channels),
                _activation(activation),
                _Convolution(channels, width, kernel),
            )

        image = width_in == 1
        self.enter = _Convolution(width_in, width, kernel) if image else conv(width_in)
        self.residual = nn.Sequential(conv(width), conv(width)) if residual else None
        self.leave = conv(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.enter(x)
        if self.residual is not None:
            x = x + self.residual(x)
        changed: torch.Tensor = self.leave(x)
        return changed


class _Convolution(nn.Conv3d):
    """A convolution that keeps the size, without two traps of PyTorch on a CPU.

    Left to itself, PyTorch computes a single volume of float32 without oneDNN if channels, sections
    and rows are few: slower by a factor of four, and with other rounding than several volumes. And
    of volumes of two sections the gradient of the weights is wrong in bfloat16, by any factor; with
    a third section, of zeros, it is right.
    """

    def __init__(self, width_in: int, width: int, kernel: tuple[int, int, int]) -> None:
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        super().__init__(width_in, width, kernel, padding=padding, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve (batch, width_in, z, y, x)."""
        if x.shape[2] == 2 and self.kernel_size[0] > 1 and _learns_in_bfloat16(x):
            return super().forward(functional.pad(x, (0, 0, 0, 0, 0, 1)))[:, :, :2]
        single = len(x) == 1 and x.dtype == torch.float32 and x.device.type == "cpu"
        if single and not torch.is_autocast_enabled("cpu") and torch.backends.mkldnn.is_available():
            padding = [int(p) for p in self.padding]
            return torch.mkldnn_convolution(x, self.weight, None, padding, (1,) * 3, (1,) * 3, 1)
        return super().forward(x)


def _learns_in_bfloat16(x: torch.Tensor) -> bool:
    if x.device.type != "cpu" or not torch.is_grad_enabled():
        return False
    autocast = torch.is_autocast_enabled("cpu")
    return (torch.get_autocast_dtype("cpu") if autocast else x.dtype) == torch.bfloat16


class RSUNet(nn.Module):
    """Residual symmetric U-Net with anisotropic (1, 2, 2) pooling.

    Parameters
    ----------
    filters : sequence of int
        Channels of each level, one pooling fewer than levels. The default network has 2.29
        million parameters.
    out_channels : int
        Number of output channels; see `synpol.polarity.Channels`.
    norm : {"batch", "group", "instance", "none"}
        Normalisation layer.
    activation : {"relu", "leaky_relu", "elu", "prelu"}
        Activation function.
    residual : bool
        Whether blocks have a residual pair of convolutions between their first and their last one.

    Notes
    -----
    The input is ``(batch, 1, z, y, x)`` float, intensities 0..1; the output is logits,
    ``(batch, out_channels, z, y, x)``. The sizes in y and x have to be
    multiples of ``2 ** (len(filters) - 1)``.
    """

    def __init__(
        self,
        filters: Sequence[int] = (18, 36, 48, 64, 80),
        out_channels: int = 3,
        norm: str = "batch",
        activation: str = "relu",
        residual: bool = True,
    ) -> None:
        super().__init__()
        levels = len(filters)
        kernels = [(1, 3, 3)] + [(3, 3, 3)] * (levels - 1)
        widths_in = [1, *filters[:-1]]
        self.encode = nn.ModuleList(
            _Block(widths_in[i], filters[i], kernels[i], norm, activation, residual)
            for i in range(levels)
        )
        self.pool = nn.MaxPool3d((1, 2, 2))
        self.project = nn.ModuleList(
            nn.Conv3d(filters[i + 1], filters[i], 1, bias=False) for i in range(levels - 1)
        )
        self.decode = nn.ModuleList(
            _Block(filters[i], filters[i], kernels[i], norm, activation, residual)
            for i in range(levels - 1)
        )
        self.head = Head(filters[0], out_channels, norm, activation)
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        levels = self.levels(x)
        for _ in self.decode:
            next(levels)  # dropped at once, so that it is freed when the next level has it
        logits: torch.Tensor = self.head(next(levels))
        return logits

    def levels(self, x: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the features of each level on the way up, the coarsest first."""
        skips = []
        for level, block in enumerate(self.encode):
            x = block(self.pool(x) if level else x)
            skips.append(x)
        yield x
        for level in reversed(range(len(self.decode))):
            x = _twice_as_wide(_pointwise(self.project[level], x)) + skips[level]
            x = self.decode[level](x)
            yield x


class Head(nn.Sequential):
    """Logits from the features of a level, which `inplace` allows to overwrite."""

    def __init__(
        self, width: int, out_channels: int, norm: str, activation: str, inplace: bool = True
    ) -> None:
        last = nn.Conv3d(width, out_channels, 1)
        super().__init__(_norm(norm, width), _activation(activation, inplace), last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute logits (batch, out_channels, z, y, x) from features (batch, width, z, y, x)."""
        norm, activation, last = self
        return _pointwise(last, activation(norm(x)))


def initialise(model: nn.Module) -> None:
    """Draw the weights of all convolutions anew; biases become 0."""
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _pointwise(convolution: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Mix channels by a matrix product, which is quicker than a convolution of one voxel.

    Channels that are last in memory stay so, in the result and in gradients; otherwise each step
    that follows would reorder them.
    """
    assert isinstance(convolution, nn.Conv3d)
    weight = convolution.weight.flatten(1)
    return functional.linear(x.movedim(1, -1), weight, convolution.bias).movedim(-1, 1)


def _twice_as_wide(x: torch.Tensor) -> torch.Tensor:
    """Upsample in plane, bilinearly, each section as an image of its own."""
    sections = x.transpose(1, 2).flatten(0, 1)
    wide = functional.interpolate(sections, scale_factor=2, mode="bilinear", align_corners=False)
    return wide.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)
