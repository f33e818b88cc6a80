"""Choose the device that a network runs on, and the precision that it computes in."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

import torch

from synpol.errors import InputError

if TYPE_CHECKING:
    from synpol.config import Workers

Precision = Literal["auto", "float32", "bfloat16", "float16"]


def choose_device(name: str) -> torch.device:
    """Return the device of a config: ``auto`` is a CUDA device if there is one, else the CPU.

    Parameters
    ----------
    name : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises
    ------
    InputError
        The name is none of these, or this machine has no such device.
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


def worker_device(name: str, workers: Workers) -> torch.device:
    """Choose the device of one of several processes on a machine: each takes a GPU for itself.

    Parameters
    ----------
    name : str
        Device that the config names.
    workers : Workers
        Section of the config about workers.

    Raises
    ------
    InputError
        This machine has no such device, or the cluster gave this process no GPU although it
        was asked for one.
    """
    device = choose_device(name)
    if device.type == "cpu" and workers.gpus:
        raise InputError(
            f"workers.gpus is {workers.gpus}, but torch sees no CUDA device on "
            f"{os.uname().nodename}; ask the cluster for one (workers.queue, workers.options), or "
            "set workers.gpus=0 to predict on the CPU"
        )
    if device.type == "cpu" or device.index is not None:
        return device
    return torch.device("cuda", _free_gpu())


#: open lock files of the GPUs that this process holds, by the index of the GPU
_taken: dict[int, IO[str]] = {}


def _free_gpu() -> int:
    """Take a GPU that no other synpol process of this user holds, and return its index.

    It is held until this process ends. `CUDA_VISIBLE_DEVICES` decides which GPUs there are. If none
    is free, one is shared.
    """
    folder = _own_folder(Path(tempfile.gettempdir()) / f"synpol-gpus-{os.getuid()}")
    if _taken:
        return next(iter(_taken))
    count = torch.cuda.device_count()
    for index in range(count):
        name = str(torch.cuda.get_device_properties(index).uuid)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
        file = open(os.open(folder / name, flags, 0o600), "a+")  # noqa: SIM115 held on purpose
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            continue
        _taken[index] = file
        return index
    shared = os.getpid() % count
    logging.getLogger(__name__).warning("no GPU is free; cuda:%d is shared", shared)
    return shared


def _own_folder(folder: Path) -> Path:
    """Make a folder that only this user can enter, in a folder where everybody writes.

    Raises
    ------
    InputError
        Somebody else has made something of this name.
    """
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise InputError(
            f"{folder} belongs to somebody else, or is no folder; it is where processes share out "
            "the GPUs: remove it, or say another folder for temporary files (TMPDIR=FOLDER)"
        )
    if found.st_mode & 0o077:  # made by an older version
        folder.chmod(0o700)
    return folder


@contextlib.contextmanager
def number_of_threads(threads: int) -> Iterator[None]:
    """Compute with a number of torch's threads, and put back the number that was there.

    A sum over several threads is rounded by their number, so what computes next in this process
    has to find its own number.

    Parameters
    ----------
    threads : int
        With 0 the number stays as it is.
    """
    before = torch.get_num_threads()
    try:
        if threads:
            torch.set_num_threads(threads)
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


# of glibc's <malloc.h>
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, for what it computes next.

    By default glibc gives large blocks back to the kernel, which clears every page before it hands
    it out again: up to a fourth of the time of a training step on a CPU. Where the C library has no
    such settings, nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(_M_MMAP_MAX, 0)  # all blocks from the heap
    mallopt(_M_TRIM_THRESHOLD, -1)  # which never shrinks


def choose_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Choose the type that convolutions compute in: for ``auto`` bfloat16 if the device has it.

    Parameters
    ----------
    precision : {"auto", "float32", "bfloat16", "float16"}
    device : torch.device
        Device that the network runs on.

    Raises
    ------
    InputError
        float16 was asked for on a CPU.
    """
    if precision == "auto":
        return torch.bfloat16 if has_bfloat16(device) else torch.float32
    if precision == "float16" and device.type == "cpu":
        raise InputError(
            "train.precision is float16, but the network runs on a CPU, which has it in name only; "
            "use auto, bfloat16 or float32"
        )
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[
        precision
    ]


def has_bfloat16(device: torch.device) -> bool:
    """Tell whether a device has instructions for bfloat16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


def has_vnni() -> bool:
    """Tell whether this processor multiplies 8-bit integers without intermediate overflow."""
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[None]:
    """Return a context in which the network computes in `dtype`."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype)
