"""From logits to probabilities."""

from __future__ import annotations

import torch

from synpol.polarity import Channels


def probability_of(logits: torch.Tensor, channels: Channels, axis: int = 1) -> torch.Tensor:
    """Return the probability of every channel: softmax of exclusive classes, else sigmoid.

    Parameters
    ----------
    logits : tensor
        Output of the network.
    channels : Channels
        Channels of the network.
    axis : int
        Axis of the channels.
    """
    return logits.softmax(axis) if channels.exclusive else logits.sigmoid()
