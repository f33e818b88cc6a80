"""Network and losses, and how a config becomes one."""

from __future__ import annotations

from synpol.config import Loss, Model
from synpol.model.losses import PolarityLoss, check_terms
from synpol.model.rsunet import RSUNet
from synpol.polarity import Channels


def build_model(model: Model) -> RSUNet:
    """Build the network of a config, which has three output channels, exclusive or not."""
    return RSUNet(model.filters, Channels.count, model.norm, model.activation, model.residual)


def build_loss(loss: Loss, channels: Channels, marked: bool = False) -> PolarityLoss:
    """Build the loss of a config; `marked` is that of `PolarityLoss`.

    Raises
    ------
    InputError
        ``loss.terms`` names a term that does not exist.
    """
    check_terms(loss)
    return PolarityLoss(channels, loss.weights, loss.class_weight, marked)


__all__ = ["PolarityLoss", "RSUNet", "build_loss", "build_model"]
