"""Checkpoints as networks that predict."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from synpol.config import Config, Model
from synpol.errors import InputError
from synpol.model import RSUNet, build_model


def best_checkpoint(run_dir: str) -> Path:
    """The checkpoint that validation during training found best, where it has found any."""
    return Path(run_dir) / "checkpoints" / "best.pt"


def latest_checkpoint(run_dir: str) -> Path | None:
    """The checkpoint of the highest iteration, None when there is none."""
    found = sorted(Path(run_dir, "checkpoints").glob("[0-9]*.pt"))
    return found[-1] if found else None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint.

    Raises
    ------
    InputError
        Missing, damaged, or not one of synpol's.
    """
    if not path.is_file():
        raise InputError(
            f"there is no checkpoint {path}; train first "
            "(pipelines/train.py of synpol's repository)"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(f"{path} is not a readable checkpoint ({error}); remove it") from None
    if not isinstance(state, dict) or "model" not in state or "config" not in state:
        raise InputError(f"{path} was not written by pipelines/train.py of synpol's repository")
    return state


@dataclass(frozen=True)
class Trained:
    """A network ready to predict.

    Attributes
    ----------
    model : RSUNet
        With the averaged weights where the run kept them.
    path : str
    digest : str
        SHA-256 of the file: what a prediction depends on.
    iteration : int
    """

    model: RSUNet
    path: str
    digest: str
    iteration: int


def find_checkpoint(config: Config) -> Path:
    """The checkpoint that a config predicts with.

    The one that it names; else the best where the run validates; else the latest.

    Raises
    ------
    InputError
        None is named and the run has none.
    """
    if config.predict.checkpoint is not None:
        return Path(config.predict.checkpoint)
    best = best_checkpoint(config.run_dir)
    if config.train.validate_every and best.exists():
        return best
    found = latest_checkpoint(config.run_dir)
    if found is None:
        raise InputError(
            f"there is no checkpoint in {config.run_dir}/checkpoints; train first "
            "(pipelines/train.py of synpol's repository), or name one: predict.checkpoint=FILE"
        )
    return found


def load_trained(
    path: Path,
    *,
    model: Model,
    exclusive: bool,
    intensity_range: tuple[float, float] | None,
) -> Trained:
    """Load the network of a checkpoint for prediction.

    Parameters
    ----------
    path : Path
        Path of the checkpoint.
    model : Model
        Architecture that the config describes.
    exclusive : bool
        Whether its channels are classes.
    intensity_range : (float, float) or None
        Intensities that the network sees as 0 and 1.

    Raises
    ------
    InputError
        The checkpoint is of another network than the config describes.
    """
    state = load_checkpoint(path)
    theirs = state["config"]
    mine = {"exclusive": exclusive} | {
        f"model.{key}": value for key, value in model.model_dump(mode="json").items()
    }
    stored = {"exclusive": theirs["exclusive"]} | {
        f"model.{key}": value for key, value in theirs["model"].items()
    }
    for key, value in mine.items():
        if stored.get(key) != value:
            raise InputError(
                f"{path} is the checkpoint of another network: it has {key} = {stored.get(key)}, "
                f"the config has {value}; use the config it was trained with, or another checkpoint"
            )
    declared = None if intensity_range is None else list(intensity_range)
    if theirs["data"]["intensity_range"] != declared:
        raise InputError(
            f"{path} was trained with data.intensity_range = {theirs['data']['intensity_range']}, "
            f"the config has {declared}; the network would see other intensities"
        )
    network = build_model(model)
    network.load_state_dict(state["ema"] if state.get("ema") else state["model"])
    network.eval()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Trained(network, str(path), digest, state["iteration"])
