"""Begin a training with the weights of another one, as far as they fit."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from synpol.config import Config
from synpol.errors import InputError
from synpol.images.appearance import Appearance, is_like, learned_from, shown_range, shown_size
from synpol.model.content import check_weights
from synpol.model.trained import digest_of_weights, load_checkpoint, network_keys, weights_of
from synpol.polarity import Channels

_log = logging.getLogger(__name__)
#: beginning of the names of the weights of the last layer, of which each channel has its own
_LAST = "head.2."


@dataclass(frozen=True)
class Initial:
    """Weights to begin with.

    Attributes
    ----------
    path : Path
        File that ``train.initial`` names.
    name : str
        Key of the weights in this file.
    weights : dict of str to tensor
    digest : str
        Hash of the weights.
    config : dict
        What the file says of the training of these weights.
    learned_from : tuple of Appearance
        What their network saw of its training volumes.
    """

    path: Path
    name: str
    weights: Any
    digest: str
    config: dict[str, Any]
    learned_from: tuple[Appearance, ...]

    @classmethod
    def of(cls, config: Config) -> Initial | None:
        """Read the weights that a config begins with; None where it begins with random ones.

        Raises
        ------
        InputError
            The file is missing, damaged, or no network of synpol.
        """
        if config.train.initial is None:
            return None
        path = Path(config.train.initial)
        try:
            state = load_checkpoint(path)
        except InputError as error:
            raise InputError(f"train.initial: {error}") from None
        name, weights = weights_of(state)
        try:
            digest = digest_of_weights(weights)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"train.initial: {path} holds no weights ({error!s:.200}); name another file"
            ) from None
        return cls(path, name, weights, digest, state["config"], learned_from(state))

    def put_into(self, network: nn.Module, config: Config, learned: Sequence[Appearance]) -> None:
        """Give a network these weights, and tell what differs between both trainings.

        Where the channels mean something else, the last layer keeps its random weights.

        Parameters
        ----------
        network : torch.nn.Module
            New network of the config.
        config : Config
        learned : sequence of Appearance
            What the network will see of its training volumes.

        Raises
        ------
        InputError
            The weights do not fit, or are not finite.
        """
        wanted = network.state_dict()
        differing = self._differing(config)
        if differing and not _fit(self.weights, wanted):
            theirs = " and ".join(f"{key} = {value}" for key, value, _ in differing)
            ours = " and ".join(f"{key} = {value}" for key, _, value in differing)
            way = " ".join(f"{key}={_said(value)}" for key, value, _ in differing)
            raise InputError(
                f"train.initial: the weights of {self.path} do not fit: its network has {theirs}, "
                f"the config has {ours}. Train a network of the same shape ({way}), or leave out "
                "train.initial to begin with random weights"
            )
        check_weights(self.path, self.name, self.weights, wanted)
        weights: dict[str, torch.Tensor] = dict(self.weights)
        for key, theirs, ours in differing:
            _log.warning(
                "train.initial: the network of %s has %s = %s, the config has %s; its weights fit, "
                "but were learned with the other",
                *(self.path, key, theirs, ours),
            )
        if bool(self.config.get("exclusive")) != config.exclusive:
            weights |= {k: v for k, v in wanted.items() if k.startswith(_LAST)}
            _log.warning(
                "train.initial: the channels of %s are %s, those of this run are %s: the last "
                "layer begins with random weights, all others with those of this file",
                self.path,
                ", ".join(Channels.of(not config.exclusive).names),
                ", ".join(Channels.of(config.exclusive).names),
            )
        network.load_state_dict(weights)
        self._tell_images(learned)

    def _differing(self, config: Config) -> list[tuple[str, Any, Any]]:
        """List the keys of the network's shape that differ, with both values."""
        theirs = network_keys(self.config)
        return [
            (f"model.{key}", theirs.get(key), ours)
            for key, ours in config.model.model_dump(mode="json").items()
            if theirs.get(key) != ours
        ]

    def _tell_images(self, learned: Sequence[Appearance]) -> None:
        """Tell what the training volumes have that those of the weights had not."""
        known = self.learned_from
        if not known:
            _log.warning(
                "%s does not say what it learned from: whether voxels and intensities of this "
                "training are like it cannot be told",
                self.path,
            )
            return
        sizes = [one.voxel_size for one in known]
        rules = {(one.dtype, one.intensity_range) for one in known}
        for one in dict.fromkeys(learned):
            if not is_like(one.voxel_size, sizes):
                _log.warning(
                    "train.initial: %s learned from voxels of %s, and this run learns from %s; the "
                    "network sees both voxel by voxel and has to learn the other scale",
                    self.path,
                    " and ".join(dict.fromkeys(map(shown_size, sizes))),
                    shown_size(one.voxel_size),
                )
            if (one.dtype, one.intensity_range) not in rules:
                theirs = " or ".join(sorted(f"{t} of {shown_range(r)}" for t, r in rules))
                _log.warning(
                    "train.initial: %s learned from %s, and this run from %s of %s; "
                    "data.intensity_range says which values become 0 and 1",
                    *(self.path, theirs, one.dtype, shown_range(one.intensity_range)),
                )


def _fit(weights: Any, wanted: dict[str, torch.Tensor]) -> bool:
    """Whether weights have the names and shapes of a network's."""
    return (
        isinstance(weights, dict)
        and weights.keys() == wanted.keys()
        and all(getattr(weights[k], "shape", None) == w.shape for k, w in wanted.items())
    )


def _said(value: Any) -> str:
    """Write a value as the command line takes it."""
    return str(value).replace(" ", "")
