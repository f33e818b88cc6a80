"""Checkpoints of a training run: how they are written, and when a run may go on from one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from synpol.config import Config
from synpol.errors import InputError
from synpol.files import whole_file
from synpol.model.content import DIGEST, digest_of_content
from synpol.training.data_state import check_same_data

#: to be raised when the request graph draws other patches from the same seed than before
REQUEST_GRAPH = 3
#: keys that older checkpoints do not have; one with its default is left out of the identity
_LATER_KEYS = (
    ("augment", "extra"),
    ("loss", "terms"),
    ("loss", "deep_supervision"),
    ("model", "residual"),
    ("data", "mixed_voxel_sizes"),
)
#: keys of `train` that may change when a run resumes, because they do not change what is learned
_FREE_KEYS = {
    "num_workers",
    "cache_size",
    "checkpoint_every",
    "image_every",
    "validate_every",
    "patience",
}


def training_identity(config: Config, initial: str | None = None) -> dict[str, Any]:
    """Return the part of a config that decides what is learned.

    Parameters
    ----------
    config : Config
    initial : str, optional
        Hash of the weights that training began with, where it was not random ones.
    """
    whole = config.model_dump(mode="json")
    kept = ("seed", "exclusive", "data", "model", "loss", "reject_sampling", "augment")
    identity = {key: whole[key] for key in kept}
    identity["data"] = {k: v for k, v in whole["data"].items() if k != "validation"}
    defaults = Config(run_dir=config.run_dir).model_dump(mode="json")
    for section, key in _LATER_KEYS:
        if identity[section][key] == defaults[section][key]:
            del identity[section][key]
    identity["request_graph"] = REQUEST_GRAPH
    identity["train"] = {k: v for k, v in whole["train"].items() if k not in _FREE_KEYS}
    del identity["train"]["initial"]  # the file may be another one with the same weights
    if initial is not None:
        identity["train"]["initial"] = initial
    return identity


def check_same_run(
    path: Path,
    stored: Mapping[str, Any],
    config: Config,
    data_state: Sequence[dict[str, Any]],
    initial: str | None = None,
) -> None:
    """Refuse to resume from the checkpoint of another run.

    Parameters
    ----------
    path : Path
        File of the checkpoint, for the message.
    stored : mapping
        Content of the checkpoint.
    config : Config
    data_state : sequence of dict
        Identity of the training data.
    initial : str, optional
        Hash of the weights of ``train.initial``.

    Raises
    ------
    InputError
        The checkpoint was trained on other data, or with other settings that decide what is
        learned.
    """
    check_same_data(path, stored.get("data_state", []), data_state)
    for section, ours in training_identity(config, initial).items():
        theirs, way = stored["config"].get(section), ""
        if ours == theirs:
            continue
        if isinstance(ours, dict) and isinstance(theirs, dict):
            ours, theirs = _without_places(section, ours), _without_places(section, theirs)
            keys = [k for k in ours | theirs if ours.get(k) != theirs.get(k)]
            if section == "train" and "iterations" in keys:
                if ours["iterations"] > theirs["iterations"]:  # a run may go on for longer
                    keys.remove("iterations")
                way = "a run may be lengthened, not shortened; " if keys == ["iterations"] else ""
            if not keys:
                continue
            key = keys[0]
            section = f"{section}.{key}"
            ours, theirs = (values.get(key, "its default") for values in (ours, theirs))
        raise InputError(
            f"{path} was trained with {section} = {theirs}, the config now has {ours}; {way}give "
            "another run_dir, or remove that folder to start anew"
        )


def _without_places(section: str, values: dict[str, Any]) -> dict[str, Any]:
    """Leave out the paths of the training data, which `check_same_data` has looked at."""
    if section != "data":
        return values
    volumes = [
        {k: v for k, v in one.items() if k not in ("raw", "truth")} for one in values["train"]
    ]
    return values | {"train": volumes}


def checkpoint_path(run_dir: str, iteration: int) -> Path:
    """Return the path of the checkpoint of an iteration."""
    return Path(run_dir) / "checkpoints" / f"{iteration:07d}.pt"


def save_checkpoint(path: Path, state: Mapping[str, Any], keep: int = 3) -> None:
    """Write a checkpoint whole or not at all, and remove older ones.

    Parameters
    ----------
    path : Path
        File to write; its folder is made where there is none.
    state : mapping
        Content of the checkpoint.
    keep : int
        Number of newest checkpoints to keep; the first one of the run stays too.
    """
    with whole_file(path, sync=True) as temporary, open(temporary, "wb") as file:
        torch.save({**state, DIGEST: digest_of_content(state)}, file)
    older = sorted(path.parent.glob("[0-9]*.pt"))[1:-keep]
    for old in older:
        old.unlink()
