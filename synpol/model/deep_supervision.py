"""Let a network answer on its coarser levels too while it trains, so that deep layers learn sooner.

After Lee et al., "Deeply-supervised nets", arXiv:1409.5185 (2014): the loss of each level is added,
halved from level to level. Each coarser level answers by a head of its own, which belongs to the
training run; the network that predicts is the same with and without them.

Which side is which follows from what lies around it, and that is what the coarse levels see. So
side contrast is not halved. Without deep supervision the sides may stay tied for hundreds of
iterations; see docs/ablation.md.
"""

from __future__ import annotations

import torch
from torch import nn

from synpol.config import Model
from synpol.model.losses import PolarityLoss
from synpol.model.rsunet import Head, RSUNet, initialise
from synpol.polarity import Channels


class DeeplySupervised(nn.Module):
    """A network in training, with a head for each coarser level.

    Parameters
    ----------
    network : RSUNet
    model : Model
        The section of the config that the network was built from.
    weight : float
        Weight of the next coarser level, ``loss.deep_supervision``; with 0 there are no heads.
    """

    def __init__(self, network: RSUNet, model: Model, weight: float) -> None:
        super().__init__()
        self.network = network
        self.weight = weight
        self.heads = nn.ModuleList(
            Head(width, Channels.count, model.norm, model.activation, inplace=False)
            for width in (model.filters[1:] if weight else [])
        )
        initialise(self.heads)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Compute logits of images (batch, 1, z, y, x), level by level, the finest first.

        Level k has ``(batch, 3, z, y / 2**k, x / 2**k)`` voxels.
        """
        if not self.heads:
            return [self.network(x)]
        *coarse, finest = self.network.levels(x)
        coarser = zip(self.heads, reversed(coarse), strict=True)
        return [self.network.head(finest), *(head(features) for head, features in coarser)]

    def losses(
        self,
        loss: PolarityLoss,
        answers: list[torch.Tensor],
        target: torch.Tensor,
        weights: torch.Tensor,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the loss of all levels together, and the terms of the finest.

        Parameters
        ----------
        loss : PolarityLoss
        answers : list of tensors
            Logits of every level.
        target, weights : tensors
            As in `synpol.model.losses.Answer`, for the finest level.

        Returns
        -------
        total : scalar tensor
        terms : dict of str to scalar tensor
            Terms of the finest level, not weighted; and under ``deep_supervision`` what the coarser
            levels added, weighted.
        """
        total, terms = loss(answers[0], target, weights)
        added = torch.zeros_like(total)
        for level, logits in enumerate(answers[1:], 1):
            halved, of_level = loss(logits, *at_level(level, target, weights))
            side = loss.weights["side_contrast"] * of_level.get("side_contrast", 0)
            added = added + self.weight * (side + (halved - side) / 2 ** (level - 1))
        if len(answers) == 1:
            return total, terms
        return total + added, terms | {"deep_supervision": added}


def at_level(level: int, *volumes: torch.Tensor) -> list[torch.Tensor]:
    """Take one voxel for each of a coarser level, of tensors (..., y, x), from its middle."""
    step = 2**level
    return [v[..., step // 2 :: step, step // 2 :: step].contiguous() for v in volumes]
