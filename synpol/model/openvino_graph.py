"""Describe a trained network to OpenVINO, which computes it faster than PyTorch does on a CPU.

OpenVINO joins convolution, normalisation and activation, and keeps intermediate results in layouts
that suit the processor. The graph is written from the layers of `RSUNet` one by one; OpenVINO's own
converter runs the network under a tracer that PyTorch has deprecated, and is not needed.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from synpol.errors import InputError
from synpol.model.device import has_vnni
from synpol.model.rsunet import RSUNet

if TYPE_CHECKING:
    import openvino


def loaded_openvino() -> Any:
    """Import OpenVINO without its telemetry, which would report each import to its makers.

    Raises
    ------
    InputError
        OpenVINO is not installed, or what is installed cannot be used.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    where = os.uname().nodename
    try:
        import openvino
        import openvino.opset15  # older versions than 2025.0 lack it
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "openvino":
            raise InputError(
                f"OpenVINO computes the network, but it is not installed on {where}: "
                "pip install 'synpol[openvino]', or say predict.engine=torch"
            ) from None
        raise InputError(
            f"OpenVINO computes the network, but what is installed on {where} is too old or "
            f"damaged ({error}): pip install -U openvino, or say predict.engine=torch"
        ) from None
    return openvino


#: standard deviations above its mean up to which 8 bits hold what a batch norm puts out; with the
#: demo's network 4 lost 0.125 of F1 and 6 lost 0.014, while 8 and 12 lost nothing
DEVIATIONS = 8


class OpenVINONetwork:
    """Compute logits with OpenVINO on a CPU, one window at a time.

    Each shape of a window is compiled when it is first seen, for as many threads as torch then has.

    Parameters
    ----------
    network : RSUNet
        Trained network.
    dtype : torch.dtype
        Type that convolutions compute in: float32 or bfloat16.
    int8 : bool
        Whether convolutions between activations compute in 8-bit integers instead.

    Raises
    ------
    InputError
        OpenVINO cannot be used here, or this processor lacks the instructions for 8-bit integers.
    """

    def __init__(self, network: RSUNet, dtype: torch.dtype, int8: bool = False) -> None:
        if int8 and not has_vnni():  # sums of products would overflow unseen
            raise InputError(
                f"predict.int8 needs a CPU with VNNI instructions, which {os.uname().nodename} "
                "lacks; leave it out"
            )
        self.int8 = int8
        self.core = loaded_openvino().Core()
        self.network, self.dtype = network.eval(), dtype
        self.compiled: dict[tuple[int, ...], Any] = {}

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        """Compute the logits of windows, (n, 1, z, y, x) to (n, channels, z, y, x), float32."""
        key = *windows.shape[2:], torch.get_num_threads()
        if key not in self.compiled:
            self.compiled[key] = self._compile(key[:3], key[3])
        request = self.compiled[key]
        logits = [
            torch.from_numpy(request.infer([window[None].contiguous().numpy()])[0])
            for window in windows
        ]
        return torch.cat(logits)

    def _compile(self, shape: tuple[int, ...], threads: int) -> Any:
        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if self.dtype == torch.bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            # workers that share a machine would all be pinned to its first cores
            "ENABLE_CPU_PINNING": False,
        }
        model = graph_of(self.network, shape, self.int8)
        compiled = self.core.compile_model(model, "CPU", options)
        return compiled.create_infer_request()


def graph_of(network: RSUNet, shape: tuple[int, ...], int8: bool = False) -> openvino.Model:
    """Write a network as a graph of OpenVINO.

    Parameters
    ----------
    network : RSUNet
        Trained network.
    shape : (int, int, int)
        Window, voxels.
    int8 : bool
        Whether convolutions between activations compute in 8-bit integers. The network then has
        batch norm and ReLU.

    Returns
    -------
    openvino.Model
        From float32 (1, 1, z, y, x) to logits (1, channels, z, y, x).
    """
    from openvino import Model
    from openvino import opset15 as ops

    image = ops.parameter([1, 1, *shape], np.float32)
    x, skips = image, []
    for level, block in enumerate(network.encode):
        x = _block(_pooled(x) if level else x, block, int8)
        skips.append(x)
    for level in reversed(range(len(network.decode))):
        mixed = _layer(x, network.project[level])
        x = _block(ops.add(_twice_as_wide(mixed), skips[level]), network.decode[level], int8)
    return Model([_layer(x, network.head)], [image], "RSUNet")


def _block(x: Any, block: Any, int8: bool) -> Any:
    from openvino import opset15 as ops

    x = _layer(x, block.enter, int8)
    if block.residual is None:
        return _layer(x, block.leave, int8)
    residual = _layer(x, block.residual, int8)
    norm, activation, _ = block.residual[0]
    if isinstance(norm, nn.Identity) and getattr(activation, "inplace", False):
        x = _layer(x, activation)  # PyTorch changes x in place where no norm makes another tensor
    return _layer(ops.add(x, residual), block.leave, int8)


def _layer(x: Any, layer: nn.Module, int8: bool = False) -> Any:
    """Add a layer, or a sequence of them, to the graph."""
    from openvino import opset15 as ops

    if isinstance(layer, nn.Sequential):
        if int8 and isinstance(layer[0], nn.BatchNorm3d):
            return _in_8_bits(x, *layer)
        for part in layer:
            x = _layer(x, part, int8)
        return x
    if isinstance(layer, nn.Conv3d):
        pads = layer.padding
        x = ops.convolution(x, _constant(layer.weight), [1] * 3, pads, pads, [1] * 3)
        return x if layer.bias is None else ops.add(x, _of_channels(layer.bias))
    if isinstance(layer, nn.BatchNorm3d):
        scale, shift = _affine(layer)
        return ops.add(ops.multiply(x, _of_channels(scale)), _of_channels(shift))
    if isinstance(layer, nn.GroupNorm):
        weight, bias = _constant(layer.weight), _constant(layer.bias)
        return ops.group_normalization(x, weight, bias, layer.num_groups, layer.eps)
    if isinstance(layer, nn.InstanceNorm3d):
        x = ops.mvn(x, np.array([2, 3, 4]), True, layer.eps, "inside_sqrt")
        return ops.add(ops.multiply(x, _of_channels(layer.weight)), _of_channels(layer.bias))
    if isinstance(layer, nn.ReLU):
        return ops.relu(x)
    if isinstance(layer, nn.ELU):
        return ops.elu(x, layer.alpha)
    if isinstance(layer, nn.LeakyReLU):
        return ops.prelu(x, np.array([layer.negative_slope], np.float32))
    if isinstance(layer, nn.PReLU):
        return ops.prelu(x, _constant(layer.weight))
    assert isinstance(layer, nn.Identity)
    return x


def _in_8_bits(x: Any, norm: nn.BatchNorm3d, activation: nn.Module, last: nn.Conv3d) -> Any:
    """Add norm, ReLU and convolution, whose numbers are rounded to 8 bits.

    What a channel can be follows from its batch norm, so nothing has to be measured on images. The
    convolution's weights take up the ranges of the channels.
    """
    from openvino import opset15 as ops

    assert isinstance(activation, nn.ReLU)
    most = (norm.bias + DEVIATIONS * norm.weight.abs()).clamp_min(1e-3)
    scale, shift = _affine(norm)
    x = ops.add(ops.multiply(x, _of_channels(scale / most)), _of_channels(shift / most))
    none, one = np.float32(0), np.float32(1)
    x = ops.fake_quantize(ops.relu(x), none, one, none, one, 256)
    weight = _constant(last.weight * most.view(1, -1, 1, 1, 1))
    largest = np.maximum(np.abs(weight).max(axis=(1, 2, 3, 4), keepdims=True), 1e-12)
    weight = ops.fake_quantize(ops.constant(weight), -largest, largest, -largest, largest, 255)
    pads = last.padding
    return ops.convolution(x, weight, [1] * 3, pads, pads, [1] * 3)


def _affine(norm: nn.BatchNorm3d) -> tuple[torch.Tensor, torch.Tensor]:
    """Return factor and summand of a batch norm that no longer learns."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


def _pooled(x: Any) -> Any:
    from openvino import opset15 as ops

    size, none = [1, 2, 2], [0, 0, 0]
    return ops.max_pool(x, size, [1, 1, 1], none, none, size, index_element_type="i32").output(0)


def _twice_as_wide(x: Any) -> Any:
    """Upsample in plane, bilinearly."""
    from openvino import opset15 as ops

    scales, axes = np.array([1, 2, 2], np.float32), np.array([2, 3, 4])
    return ops.interpolate(x, scales, "linear_onnx", "scales", axes=axes)


def _constant(values: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(values.detach().cpu().float().numpy())


def _of_channels(values: torch.Tensor) -> np.ndarray:
    return _constant(values).reshape(1, -1, 1, 1, 1)
