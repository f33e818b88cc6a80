"""Load the network of a checkpoint for prediction."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synpol.config import Config, Model
from synpol.errors import InputError
from synpol.images.appearance import Appearance, learned_from
from synpol.model import RSUNet, build_model
from synpol.model.content import check_weights, digest_of_content, read_content
from synpol.model.portable import Seen, is_portable, read_portable, said_of


def best_checkpoint(run_dir: str) -> Path:
    """Return the path of the checkpoint with the best validation score; it may not exist."""
    return Path(run_dir) / "checkpoints" / "best.pt"


def latest_checkpoint(run_dir: str) -> Path | None:
    """Return the path of the checkpoint of the highest iteration, None if there is none."""
    checkpoints = sorted(Path(run_dir, "checkpoints").glob("[0-9]*.pt"))
    return checkpoints[-1] if checkpoints else None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read the content of a checkpoint, or of a portable network in the form of one.

    Raises
    ------
    InputError
        The file is missing, damaged, or not a checkpoint or network of synpol.
    """
    if is_portable(path):
        return read_portable(path)
    state = read_content(path)
    config, iteration = state.get("config"), state.get("iteration")
    if not isinstance(config, dict) or not isinstance(iteration, int) or "model" not in state:
        raise InputError(f"{path} is not a checkpoint that synpol wrote")
    for section in ("model", "data", "train"):
        if not isinstance(config.get(section), dict):
            raise InputError(
                f"{path} is not a checkpoint that synpol wrote: its config has no {section}"
            )
    try:
        for one in learned_from(state):
            Seen.model_validate(one.kept())
    except Exception as error:  # whatever it is made of instead of numbers and texts
        raise InputError(
            f"{path} is not a checkpoint that synpol wrote: what it says of its training volumes "
            f"is malformed ({said_of(error):.200}). Copy it again, or train again"
        ) from None
    return state


def weights_of(state: Mapping[str, Any]) -> tuple[str, Any]:
    """Return the weights that a checkpoint predicts with, after the key that they have in it.

    These are the averaged weights, or the last ones if the run averaged none.
    """
    name = "ema" if state.get("ema") else "model"
    return name, state[name]


def digest_of_weights(weights: Any) -> str:
    """Return the hash by which weights are known, whatever file holds them."""
    return f"weights-{digest_of_content(weights)}"


@dataclass(frozen=True)
class Trained:
    """A trained network.

    Attributes
    ----------
    model : RSUNet
        Network with its averaged weights, or with its last ones if the run averaged none.
    path : str
        Path of the checkpoint, or of the portable network.
    digest : str
        SHA-256 of the weights, which tells whether a prediction is up to date.
    file_digest : str
        SHA-256 of the checkpoint's file, which older predictions were told by.
    iteration : int
        Number of iterations that the network was trained for.
    learned_from : tuple of Appearance
        What the network saw of its training volumes; empty where the checkpoint does not say.
    """

    model: RSUNet
    path: str
    digest: str
    file_digest: str
    iteration: int
    learned_from: tuple[Appearance, ...]


def find_checkpoint(config: Config) -> Path:
    """Return the path of the checkpoint that a config predicts with.

    It is the one that the config names; else the best one, if the run validates; else the latest.

    Raises
    ------
    InputError
        The config names none, and the run has none.
    """
    if config.predict.checkpoint is not None:
        return Path(config.predict.checkpoint)
    best = best_checkpoint(config.run_dir)
    if config.train.validate_every and best.exists():
        return best
    latest = latest_checkpoint(config.run_dir)
    if latest is None:
        raise InputError(
            f"there is no checkpoint in {config.run_dir}/checkpoints; train first, or name one: "
            "predict.checkpoint=FILE"
        )
    return latest


def network_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the config of a checkpoint says of its network; a later key has its default."""
    return Model().model_dump(mode="json") | config["model"]


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
        Whether the channels of the network are classes.
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
    stored = {"exclusive": theirs.get("exclusive")} | {
        f"model.{key}": value for key, value in network_keys(theirs).items()
    }
    for key, value in mine.items():
        if stored.get(key) != value:
            raise InputError(
                f"{path} is the checkpoint of another network: it has {key} = {stored.get(key)}, "
                f"the config has {value}; use the config it was trained with, or another checkpoint"
            )
    declared = None if intensity_range is None else list(intensity_range)
    trained_with = theirs["data"].get("intensity_range")
    if trained_with != declared:
        raise InputError(
            f"{path} was trained with data.intensity_range = {trained_with}, "
            f"the config has {declared}; the network would see other intensities. Keep this key as "
            "it was, and say predict.intensity_range for an image with others"
        )
    network = build_model(model)
    name, weights = weights_of(state)
    check_weights(path, name, weights, network.state_dict())
    network.load_state_dict(weights)
    network.eval()
    with open(path, "rb") as file:
        file_digest = hashlib.file_digest(file, "sha256").hexdigest()
    digest = digest_of_weights(weights)
    return Trained(network, str(path), digest, file_digest, state["iteration"], learned_from(state))
