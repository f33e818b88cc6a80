"""Losses on pre, post and union: the recipe's, and side contrast, which is ours.

The recipe's loss alone has a wide plateau where both sides answer "synapse": the union is learned,
the sides stay tied. Side contrast asks only *which* side, inside the true union, so that no
background and no class imbalance drowns the question and the tie has a gradient.

All of them take logits, targets and voxel weights ``(batch, 3, z, y, x)`` (exclusive: classes
``(batch, z, y, x)``) and return a scalar. A voxel whose weight is zero has no say.

Of several processes that train together each gets its part of the batch. Means over voxels are then
averaged with the gradients; where a term is a ratio of sums, these are of the whole batch.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.nn.functional import all_reduce


def of_whole_batch(sums: torch.Tensor) -> torch.Tensor:
    """Add up over the processes that train together; gradients flow back to all of them."""
    if not (dist.is_available() and dist.is_initialized()):
        return sums
    return all_reduce(sums)


class WeightedBCEWithLogitsLoss(nn.Module):
    """Binary cross entropy of every channel, weighted voxel by voxel, averaged over all."""

    def forward(
        self, logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(logits, target, weight)


class WeightedCE(nn.Module):
    """Cross entropy of exclusive classes, a weight a class.

    Parameters
    ----------
    class_weight : sequence of 3 floats
        Of background, pre and post; the recipe has 1, 10, 10. The mean is over voxels, not over
        weights.
    """

    class_weight: torch.Tensor

    def __init__(self, class_weight: tuple[float, float, float] = (1.0, 10.0, 10.0)) -> None:
        super().__init__()
        self.register_buffer("class_weight", torch.tensor(class_weight))

    def forward(
        self, logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor:
        each = F.cross_entropy(logits, target, self.class_weight, reduction="none")
        return (each * weight).mean()


class DiceLoss(nn.Module):
    """One minus the soft Dice coefficient, a mean over channels.

    After Milletari et al., "V-Net", arXiv:1606.04797 (squared denominators). Voxels of weight zero
    are left out; a channel that has none left counts as perfect.
    """

    def forward(
        self, probability: torch.Tensor, target: torch.Tensor, known: torch.Tensor
    ) -> torch.Tensor:
        axes = (0, 2, 3, 4)
        p, t = probability * known, target * known
        overlap = of_whole_batch((p * t).sum(axes))
        total = of_whole_batch((p * p).sum(axes) + (t * t).sum(axes))
        return (1 - (2 * overlap + 1) / (total + 1)).mean()


def side_contrast(
    side_logit: torch.Tensor, is_pre: torch.Tensor, is_post: torch.Tensor
) -> torch.Tensor:
    """Which side? asked inside the true union only.

    Parameters
    ----------
    side_logit : (batch, z, y, x) tensor
        ``logit_pre - logit_post``.
    is_pre, is_post : (batch, z, y, x) tensors of 0 and 1
        Where the side is known to be pre, or post. Where neither is set nothing is asked.

    Returns
    -------
    scalar tensor
        Binary cross entropy averaged over the voxels of known side; 0 when there are none.
    """
    known = is_pre + is_post
    each = F.binary_cross_entropy_with_logits(side_logit, is_pre, known, reduction="sum")
    return of_whole_batch(each) / of_whole_batch(known.sum()).clamp(min=1)


def non_overlap(probability: torch.Tensor) -> torch.Tensor:
    """How much the sides claim the same voxels: the mean of pre * post * union.

    The union is a mere weight here, it gets no gradient. The older EM-R50 configs have this term
    (``Nonoverlap`` of PyTorch Connectomics), with the weight 4.

    Parameters
    ----------
    probability : (batch, 3, z, y, x) tensor
        Of pre, post, union.
    """
    pre, post, union = probability.unbind(1)
    return (pre * post * union.detach()).mean()


class PolarityLoss(nn.Module):
    """The recipe's loss with side contrast beside it.

    Parameters
    ----------
    exclusive : bool
        Softmax over background, pre, post (`WeightedCE`) instead of three sigmoids
        (`WeightedBCEWithLogitsLoss`).
    bce, dice, side_contrast, non_overlap : float
        Weight of the cross entropy, of Dice, of side contrast, and of non-overlap; 0 leaves a term
        out. Exclusive classes cannot overlap, so that term is for the others.
    class_weight : 3 floats
        Of the exclusive cross entropy.
    """

    def __init__(
        self,
        exclusive: bool = False,
        bce: float = 1.0,
        dice: float = 1.0,
        side_contrast: float = 1.0,
        non_overlap: float = 0.0,
        class_weight: tuple[float, float, float] = (1.0, 10.0, 10.0),
    ) -> None:
        super().__init__()
        self.exclusive = exclusive
        self.weights = {
            "bce": bce,
            "dice": dice,
            "side_contrast": side_contrast,
            "non_overlap": non_overlap,
        }
        self.cross_entropy = WeightedCE(class_weight) if exclusive else WeightedBCEWithLogitsLoss()
        self.dice = DiceLoss()

    def forward(
        self, logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the weighted sum and its terms by name."""
        logits = logits.float()
        if self.exclusive:
            sides = F.one_hot(target, 3).movedim(-1, 1)[:, 1:].float()
            probability = logits.softmax(1)[:, 1:]
            side_logit = logits[:, 1] - logits[:, 2]
            dice_target, known = sides, (weight > 0)[:, None].float()
        else:
            sides = target[:, :2]
            probability = logits.sigmoid()
            side_logit = logits[:, 0] - logits[:, 1]
            dice_target, known = target, (weight > 0).float()
        terms = {}
        if self.weights["bce"]:
            terms["bce"] = self.cross_entropy(logits, target, weight)
        if self.weights["dice"]:
            terms["dice"] = self.dice(probability, dice_target, known)
        if self.weights["side_contrast"]:
            terms["side_contrast"] = side_contrast(side_logit, sides[:, 0], sides[:, 1])
        if self.weights["non_overlap"] and not self.exclusive:
            terms["non_overlap"] = non_overlap(probability)
        total = sum(
            (self.weights[name] * term for name, term in terms.items()), logits.new_zeros(())
        )
        return total, terms
