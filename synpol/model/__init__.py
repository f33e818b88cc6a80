"""Network and losses, and how a config becomes one."""

from __future__ import annotations

from synpol.config import Config, Model
from synpol.model.losses import PolarityLoss
from synpol.model.rsunet import RSUNet


def build_model(model: Model) -> RSUNet:
    """The network of a config; three channels out, exclusive or not."""
    return RSUNet(model.filters, 3, model.norm, model.activation)


def build_loss(config: Config) -> PolarityLoss:
    """The loss of a config."""
    loss = config.loss
    return PolarityLoss(
        config.exclusive,
        loss.bce,
        loss.dice,
        loss.side_contrast,
        loss.non_overlap,
        loss.class_weight,
    )


__all__ = ["PolarityLoss", "RSUNet", "build_loss", "build_model"]
