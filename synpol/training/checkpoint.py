"""Checkpoints: written whole or not at all, and refused where they do not belong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from synpol.config import Config
from synpol.files import whole_file

#: raised when the request graph draws other patches from the same seed than it did
REQUEST_GRAPH = 3
#: keys that came later: where they are empty, a run is what it was before they came
_LATER = (("augment", "extra"), ("loss", "terms"))
#: keys of `train` that may differ when a run resumes: they do not change what is learned
_FREE = {
    "num_workers",
    "cache_size",
    "checkpoint_every",
    "image_every",
    "validate_every",
    "patience",
}


def training_identity(config: Config) -> dict[str, Any]:
    """The part of a config that decides what is learned."""
    whole = config.model_dump(mode="json")
    kept = ("seed", "exclusive", "data", "model", "loss", "reject_sampling", "augment")
    identity = {key: whole[key] for key in kept}
    identity["data"] = {k: v for k, v in whole["data"].items() if k != "validation"}
    for section, key in _LATER:
        if not identity[section][key]:
            del identity[section][key]
    identity["request_graph"] = REQUEST_GRAPH
    identity["train"] = {k: v for k, v in whole["train"].items() if k not in _FREE}
    return identity


def checkpoint_path(run_dir: str, iteration: int) -> Path:
    return Path(run_dir) / "checkpoints" / f"{iteration:07d}.pt"


def save_checkpoint(path: Path, state: Mapping[str, Any], keep: int = 3) -> None:
    """Write a checkpoint whole or not at all, and remove all but the first and the last few.

    Parameters
    ----------
    path : Path
    state : mapping
        Content of the checkpoint.
    keep : int
        Number of checkpoints, the latest ones, that stay besides the first.
    """
    with whole_file(path, sync=True) as temporary, open(temporary, "wb") as file:
        torch.save(dict(state), file)
    older = sorted(path.parent.glob("[0-9]*.pt"))[1:-keep]
    for old in older:
        old.unlink()
