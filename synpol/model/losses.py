"""Loss terms on the polarity of a batch, and their weighted sum.

A term is one function under a name::

    @loss_term("entropy")
    def entropy(answer: Answer) -> torch.Tensor:
        p = answer.probability
        return -(p * p.clamp(min=1e-6).log()).mean()

A config gives it a weight with ``loss.terms: {entropy: 0.1}``. Its column in ``log.csv`` and its
curves follow from the name.

The recipe's terms alone, cross entropy and Dice, have a wide plateau on which the network answers
"synapse" on both sides: it has learned the union, but the sides stay tied. Side contrast asks only
*which* side, and only inside the true union, so that neither the background nor class imbalance
hides the question, and the gradient breaks the tie.

Several processes that train together each get a part of the batch. Means over voxels are averaged
over the processes together with the gradients. Where a term is a ratio of sums, its sums have to be
those of the whole batch: see `sum_of_whole_batch`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.nn.functional import all_reduce

from synpol.config import Loss
from synpol.errors import InputError, nearest
from synpol.model.activation import probability_of
from synpol.polarity import Channels


@dataclass(frozen=True)
class Answer:
    """The network's answer to a batch, and the truth.

    Attributes
    ----------
    channels : Channels
        Channels of the network.
    logits : (batch, 3, z, y, x) float32 tensor
        Output of the network.
    target : (batch, 3, z, y, x) float32 tensor
        Truth, 0 or 1; for an exclusive network classes instead, ``(batch, z, y, x)`` int64.
    weight : float32 tensor of the shape of `target`
        Weight of every voxel. A voxel of weight 0 must not matter.
    class_weight : (3,) float32 tensor
        Weight of every class; for exclusive networks only.
    probability : (batch, 3, z, y, x) tensor
        Probability of every channel.
    side_logit : (batch, z, y, x) tensor
        Logit of the pre side minus logit of the post side.
    is_pre, is_post : (batch, z, y, x) tensors
        1 where the true side is known to be this one, else 0.
    known : (batch, z, y, x) tensor or None
        1 where somebody looked, else 0; None where this was everywhere.
    """

    channels: Channels
    logits: torch.Tensor
    target: torch.Tensor
    weight: torch.Tensor
    class_weight: torch.Tensor
    probability: torch.Tensor
    side_logit: torch.Tensor
    is_pre: torch.Tensor
    is_post: torch.Tensor
    known: torch.Tensor | None = None

    @classmethod
    def of(
        cls,
        channels: Channels,
        logits: torch.Tensor,
        target: torch.Tensor,
        weight: torch.Tensor,
        class_weight: torch.Tensor,
        marked: bool = False,
    ) -> Answer:
        """Derive what terms need from logits, target and weights.

        With `marked` a voxel whose weights are all 0 is one that nobody looked at.
        """
        logits = logits.float()
        probability = probability_of(logits, channels)
        side_logit = channels.pre(logits, 1) - channels.post(logits, 1)
        is_pre, is_post = (side.to(logits.dtype) for side in known_sides(target, channels))
        return cls(
            channels,
            logits,
            target,
            weight,
            class_weight,
            probability,
            side_logit,
            is_pre,
            is_post,
            _known_voxels(weight, channels) if marked else None,
        )

    def mean(self, each: torch.Tensor) -> torch.Tensor:
        """Return the mean of a tensor (batch, z, y, x) or (batch, 3, z, y, x) over known voxels.

        It has to be 0 where nobody looked.
        """
        if self.known is None:
            return each.mean()
        voxels = sum_of_whole_batch(self.known.sum()) * (each.numel() // self.known.numel())
        return sum_of_whole_batch(each.sum()) / voxels.clamp(min=1)


def _known_voxels(weight: torch.Tensor, channels: Channels) -> torch.Tensor:
    most = weight if channels.exclusive else weight.amax(1)
    return (most > 0).to(weight.dtype)


def known_sides(target: torch.Tensor, channels: Channels) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where a target says pre and where post, as (batch, z, y, x) bool tensors."""
    if channels.exclusive:
        return target == channels.index("pre"), target == channels.index("post")
    return channels.pre(target, 1) > 0, channels.post(target, 1) > 0


def side_right(logits: torch.Tensor, target: torch.Tensor, channels: Channels) -> tuple[int, int]:
    """Count the voxels of known side on which the network prefers the right side.

    Parameters
    ----------
    logits, target : tensors
        As in `Answer`.
    channels : Channels

    Returns
    -------
    right, known : int
        Voxels that got the right side, and all voxels of known side.
    """
    pre, post = known_sides(target, channels)
    says_pre = channels.pre(logits, 1) > channels.post(logits, 1)
    right = int((says_pre & pre).sum() + (~says_pre & post).sum())
    return right, int(pre.sum() + post.sum())


def sum_of_whole_batch(sums: torch.Tensor) -> torch.Tensor:
    """Add up sums over the processes that train together; gradients flow back to all of them."""
    if not (dist.is_available() and dist.is_initialized()):
        return sums
    return all_reduce(sums)


# ---------------------------------------------------------------- the terms

#: a function of the answer to a scalar tensor, or None where it does not suit the network
type Term = Callable[[Answer], torch.Tensor | None]

#: every term by its name
TERMS: dict[str, Term] = {}


def loss_term[T: Term](name: str) -> Callable[[T], T]:
    """Register a function as the loss term of a name.

    Terms have a weight of 0 until the config gives them another one.
    """

    def register(term: T) -> T:
        if name in TERMS:
            raise ValueError(f"there is a loss term {name!r} already")
        TERMS[name] = term
        return term

    return register


@loss_term("bce")
def cross_entropy(answer: Answer) -> torch.Tensor:
    """Return the weighted cross entropy, the mean over all known voxels.

    It is the binary cross entropy of every channel, weighted voxel by voxel; for exclusive networks
    the cross entropy of the classes, weighted by class and voxel.
    """
    if answer.channels.exclusive:
        each = F.cross_entropy(answer.logits, answer.target, answer.class_weight, reduction="none")
        return answer.mean(each * answer.weight)
    each = F.binary_cross_entropy_with_logits(
        answer.logits, answer.target, answer.weight, reduction="none"
    )
    return answer.mean(each)


@loss_term("dice")
def dice(answer: Answer) -> torch.Tensor:
    """Return 1 minus the soft Dice coefficient, the mean over channels.

    For exclusive networks the channels are the two sides. Voxels of weight 0 are left out; a
    channel in which no voxel is left counts as perfect.

    References
    ----------
    Milletari et al., "V-Net", arXiv:1606.04797, with squared denominators.
    """
    probability, target, known = answer.probability, answer.target, (answer.weight > 0).float()
    if answer.channels.exclusive:
        probability = answer.channels.sides(probability, 1)
        target, known = torch.stack([answer.is_pre, answer.is_post], 1), known[:, None]
    axes = (0, 2, 3, 4)
    p, t = probability * known, target * known
    overlap = sum_of_whole_batch((p * t).sum(axes))
    total = sum_of_whole_batch((p * p).sum(axes) + (t * t).sum(axes))
    return (1 - (2 * overlap + 1) / (total + 1)).mean()


@loss_term("side_contrast")
def side_contrast(answer: Answer) -> torch.Tensor:
    """Return the binary cross entropy of the side, the mean over the voxels of known side.

    It is 0 where no voxel of the batch has a known side.
    """
    known = answer.is_pre + answer.is_post
    each = F.binary_cross_entropy_with_logits(
        answer.side_logit, answer.is_pre, known, reduction="sum"
    )
    return sum_of_whole_batch(each) / sum_of_whole_batch(known.sum()).clamp(min=1)


@loss_term("non_overlap")
def non_overlap(answer: Answer) -> torch.Tensor | None:
    """Return the mean of pre * post * union over known voxels: do both sides claim the same?

    The union is a mere weight, it gets no gradient. Exclusive classes cannot overlap, so the term
    is for other networks only. The older EM-R50 configs have it (``Nonoverlap`` of PyTorch
    Connectomics) with the weight 4.
    """
    if answer.channels.exclusive:
        return None
    pre, post, union = (
        side(answer.probability, 1)
        for side in (answer.channels.pre, answer.channels.post, answer.channels.union)
    )
    overlap = pre * post * union.detach()
    return answer.mean(overlap if answer.known is None else overlap * answer.known)


# ---------------------------------------------------------------- their sum


class PolarityLoss(nn.Module):
    """The weighted sum of loss terms.

    Parameters
    ----------
    channels : Channels
        Channels of the network. For exclusive ones `target` and `weight` of `forward` are
        ``(batch, z, y, x)``.
    weights : mapping of str to float
        Weight of every term by its name; terms of weight 0 are not computed.
    class_weight : 3 floats
        Weight of background, pre and post in the cross entropy of exclusive networks.
    marked : bool
        Whether there are voxels that nobody looked at. All their weights are 0, and no term depends
        on them.
    """

    class_weight: torch.Tensor

    def __init__(
        self,
        channels: Channels,
        weights: Mapping[str, float],
        class_weight: tuple[float, float, float] = (1.0, 10.0, 10.0),
        marked: bool = False,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.terms = {name: TERMS[name] for name, weight in weights.items() if weight}
        self.weights = dict(weights)
        self.marked = marked
        self.register_buffer("class_weight", torch.tensor(class_weight))

    def forward(
        self, logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the weighted sum, and the terms, not weighted, by their names.

        Parameters
        ----------
        logits, target, weight : tensors
            As in `Answer`.
        """
        answer = Answer.of(self.channels, logits, target, weight, self.class_weight, self.marked)
        terms = {}
        for name, term in self.terms.items():
            value = term(answer)
            if value is not None:
                terms[name] = value
        weighted = (self.weights[name] * value for name, value in terms.items())
        return sum(weighted, answer.logits.new_zeros(())), terms


def check_terms(loss: Loss) -> None:
    """Refuse names in ``loss.terms`` that no term has.

    Raises
    ------
    InputError
        The name is not in `TERMS`, or its weight is a key of its own in ``loss``.
    """
    known = [name for name in TERMS if name not in Loss.model_fields]
    for name in loss.terms:
        if name not in known:
            raise InputError(
                f"loss.terms.{name}: there is no such loss term{nearest(name, known)}; a term is a "
                "function that is registered by @loss_term as in synpol/model/losses.py"
            )
