"""Where the network runs and in which precision."""

from __future__ import annotations

import contextlib
from typing import Literal

import torch

from synpol.errors import InputError

Precision = Literal["auto", "float32", "bfloat16"]


def choose_device(name: str) -> torch.device:
    """The device of a config: ``auto`` is CUDA where there is one, else the CPU.

    Raises
    ------
    InputError
        A device that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"device is {name!r}; auto, cpu, cuda or cuda:N is expected") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device is {name!r}; auto, cpu, cuda or cuda:N is expected")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device is {name!r}, but torch sees {torch.cuda.device_count()} CUDA devices; "
            "use `device: auto`"
        )
    return device


def choose_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The type that convolutions compute in: bfloat16 only where the processor has it."""
    if precision == "auto":
        if device.type == "cuda":
            fast = torch.cuda.is_bf16_supported()
        else:
            fast = bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[None]:
    """Compute in `dtype` where that is not float32 already."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype)
