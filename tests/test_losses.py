"""Losses: what they ask for, and that they can be learned from."""

from __future__ import annotations

import pytest
import torch

from synpol.config import Train
from synpol.errors import InputError
from synpol.model.device import choose_dtype
from synpol.model.losses import PolarityLoss, non_overlap, side_contrast
from synpol.training.optimizer import build_optimizer


def test_non_overlap_is_the_mean_of_the_product_and_leaves_the_union_alone():
    probability = torch.rand(2, 3, 2, 3, 4, requires_grad=True)
    value = non_overlap(probability)
    pre, post, union = probability.detach().unbind(1)
    assert torch.isclose(value, (pre * post * union).mean())
    value.backward()
    assert probability.grad[:, 2].abs().max() == 0
    assert probability.grad[:, :2].abs().min() > 0


def test_side_contrast_asks_inside_the_union_only():
    logit = torch.tensor([[[[2.0, -2.0, 5.0]]]])
    pre, post = torch.tensor([[[[1.0, 0.0, 0.0]]]]), torch.tensor([[[[0.0, 1.0, 0.0]]]])
    right = side_contrast(logit, pre, post)
    assert torch.isclose(right, torch.log1p(torch.exp(torch.tensor(-2.0))))
    assert side_contrast(-logit, pre, post) > 2
    assert side_contrast(logit, 0 * pre, 0 * post) == 0


@pytest.mark.parametrize("exclusive", [False, True])
def test_weights_choose_the_terms(exclusive):
    logits = torch.randn(1, 3, 2, 4, 4)
    if exclusive:
        target, weight = torch.randint(0, 3, (1, 2, 4, 4)), torch.ones(1, 2, 4, 4)
    else:
        target, weight = torch.randint(0, 2, (1, 3, 2, 4, 4)).float(), torch.ones(1, 3, 2, 4, 4)
    total, terms = PolarityLoss(exclusive, non_overlap=4.0)(logits, target, weight)
    names = {"bce", "dice", "side_contrast"} | (set() if exclusive else {"non_overlap"})
    assert set(terms) == names
    expected = sum(t * (4.0 if n == "non_overlap" else 1.0) for n, t in terms.items())
    assert torch.isclose(total, expected)
    _, alone = PolarityLoss(exclusive, dice=0, side_contrast=0)(logits, target, weight)
    assert set(alone) == {"bce"}


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_the_optimizer_is_the_configs_and_spares_norms_and_biases(name, kind):
    model = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3), torch.nn.BatchNorm3d(2))
    optimizer = build_optimizer(model, Train(optimizer=name, lr=0.04, weight_decay=0.02))
    assert isinstance(optimizer, kind)
    decayed, free = optimizer.param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.02, 0)
    assert [p.ndim for p in decayed["params"]] == [5]
    assert len(free["params"]) == 3
    assert decayed["lr"] == 0.04


def test_float16_is_refused_on_a_cpu():
    with pytest.raises(InputError, match=r"train\.precision is float16, but the network runs on"):
        choose_dtype("float16", torch.device("cpu"))
