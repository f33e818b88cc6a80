"""The commands of pipelines/, run in this process; and a tiny data set for them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml

from synpol.images.writing import create_image

ROOT = Path(__file__).resolve().parents[1]


def recipe(name: str) -> ModuleType:
    """The module of ``pipelines/NAME.py``."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "pipelines" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name: str, *arguments: Any) -> int:
    """Run a command; returns its exit code."""
    from synpol.command import run_command

    module = recipe(name)
    options = getattr(module, "options", None)
    try:
        run_command(module.main, module.__doc__, [str(a) for a in arguments], options)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def run_refused(capsys: pytest.CaptureFixture[str], name: str, *arguments: Any) -> str:
    """Run a command that has to end with exit code 2; returns its message."""
    capsys.readouterr()
    assert run(name, *arguments) == 2
    return capsys.readouterr().err


def tiny_volume(folder: Path, shape: tuple[int, int, int] = (8, 48, 48), seed: int = 0) -> None:
    """Raw and truth: bright pre and dark post boxes on noise."""
    rng = np.random.default_rng(seed)
    raw = rng.integers(100, 150, shape).astype(np.uint8)
    truth = np.zeros(shape, np.uint64)
    for n in range(1, 7):
        z, y, x = (
            int(rng.integers(0, max(1, s - d))) for s, d in zip(shape, (4, 8, 12), strict=True)
        )
        if truth[z : z + 4, max(0, y - 3) : y + 11, max(0, x - 3) : x + 15].any():
            continue
        truth[z : z + 4, y : y + 8, x : x + 6] = 2 * n - 1
        truth[z : z + 4, y : y + 8, x + 6 : x + 12] = 2 * n
    raw[truth % 2 == 1] += 90
    raw[(truth > 0) & (truth % 2 == 0)] -= 90
    for name, data in (("raw", raw), ("truth", truth)):
        write(folder, name, data)


def write(folder: Path, name: str, data: np.ndarray, **placement: Any) -> None:
    """Store an array as an image."""
    where = {"voxel_size": (30, 16, 16), "offset": (0, 0, 0), "unit": "nm"} | placement
    image = create_image(
        folder,
        name,
        shape=data.shape,
        dtype=data.dtype,
        chunk_shape=[min(16, s) for s in data.shape],
        **where,
    )
    image.array[:] = data


def tiny_config(folder: Path, **changes: Any) -> Path:
    """A recipe on the tiny volume at ``folder/data`` that runs in seconds."""
    data = {"raw": f"{folder}/data/raw", "truth": f"{folder}/data/truth", "labels": "polarity"}
    config: dict[str, Any] = {
        "run_dir": f"{folder}/run",
        "seed": 3,
        "device": "cpu",
        "data": {"train": [data], "validation": data},
        "model": {"filters": [4, 6]},
        "reject_sampling": {"size_thres": 50, "p": 0.9},
        "train": {
            "patch": [4, 16, 16],
            "batch_size": 2,
            "iterations": 4,
            "lr": 0.01,
            "ema": 0.5,
            "ema_warmup": 1,
            "num_workers": 0,
            "checkpoint_every": 2,
            "image_every": 2,
        },
        "predict": {
            "raw": f"{folder}/data/raw",
            "output": f"{folder}/result",
            "block_shape": [8, 32, 32],
            "chunk_shape": [4, 16, 16],
        },
        "decode": {"thres_small": 4, "block_shape": [4, 20, 30]},
        "evaluate": {"truth": f"{folder}/data/truth"},
    }
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            config.setdefault(section, {})[name] = value
        else:
            config[section] = value
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path
