"""Losses: what they ask for, and that they can be learned from."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from recipes import run, run_refused, tiny_config, tiny_volume

from synpol.config import Loss, Train, load_config
from synpol.errors import InputError
from synpol.model import build_loss, losses
from synpol.model.device import choose_dtype
from synpol.model.losses import Answer, loss_term, non_overlap, side_contrast, side_right
from synpol.polarity import Channels
from synpol.report.figures import training_curves
from synpol.training.checkpoint import training_identity
from synpol.training.log import TrainingLog
from synpol.training.optimizer import build_optimizer

ONES = torch.ones(3)


def answer(logits, target, exclusive=False):
    """An answer of which every voxel counts."""
    weight = torch.ones(target.shape)
    return Answer.of(Channels.of(exclusive), logits, target, weight, ONES)


def test_non_overlap_is_the_mean_of_the_product_and_leaves_the_union_alone():
    logits = torch.randn(2, 3, 2, 3, 4, requires_grad=True)
    value = non_overlap(answer(logits, torch.zeros(2, 3, 2, 3, 4)))
    pre, post, union = logits.detach().sigmoid().unbind(1)
    assert torch.isclose(value, (pre * post * union).mean())
    value.backward()
    assert logits.grad[:, 2].abs().max() == 0
    assert logits.grad[:, :2].abs().min() > 0


def test_side_contrast_asks_inside_the_union_only():
    logits, target = torch.zeros(2, 1, 3, 1, 1, 3)
    logits[0, 0, 0, 0] = torch.tensor([2.0, -2.0, 5.0])
    target[0, :2, 0, 0, :2] = torch.eye(2)
    right = side_contrast(answer(logits, target))
    assert torch.isclose(right, torch.log1p(torch.exp(torch.tensor(-2.0))))
    assert side_contrast(answer(-logits, target)) > 2
    assert side_contrast(answer(logits, 0 * target)) == 0


def some_answer(exclusive):
    """Random logits, target and weights."""
    logits = torch.randn(1, 3, 2, 4, 4)
    if exclusive:
        return logits, torch.randint(0, 3, (1, 2, 4, 4)), torch.ones(1, 2, 4, 4)
    return logits, torch.randint(0, 2, (1, 3, 2, 4, 4)).float(), torch.ones(1, 3, 2, 4, 4)


@pytest.mark.parametrize("exclusive", [False, True])
def test_weights_choose_the_terms(exclusive):
    channels, given = Channels.of(exclusive), some_answer(exclusive)
    total, terms = build_loss(Loss(non_overlap=4.0), channels)(*given)
    names = {"bce", "dice", "side_contrast"} | (set() if exclusive else {"non_overlap"})
    assert set(terms) == names
    expected = sum(t * (4.0 if n == "non_overlap" else 1.0) for n, t in terms.items())
    assert torch.isclose(total, expected)
    _, alone = build_loss(Loss(dice=0, side_contrast=0), channels)(*given)
    assert set(alone) == {"bce"}


@pytest.mark.parametrize("exclusive", [False, True])
def test_right_sides_are_counted_where_the_side_is_known(exclusive):
    logits = torch.zeros(1, 3, 1, 1, 4)
    first = 1 if exclusive else 0
    logits[0, first, 0, 0] = torch.tensor([1.0, 1.0, -1.0, 1.0])
    classes = torch.tensor([[[[1, 2, 2, 0]]]])
    target = torch.stack([classes == 1, classes == 2, classes > 0], 1).float()
    found = side_right(logits, classes if exclusive else target, Channels.of(exclusive))
    assert found == (2, 3)


# ---------------------------------------------------------------- a term from outside


@pytest.fixture
def brightness(monkeypatch):
    """A term that is not in the package: how sure the network is of a synapse everywhere."""
    monkeypatch.setattr(losses, "TERMS", dict(losses.TERMS))

    @loss_term("brightness")
    def term(answer):
        return answer.channels.union(answer.probability, 1).mean()


def rows_of(folder):
    with open(folder / "run" / "log.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("exclusive", [False, True])
def test_a_term_from_outside_is_learned_with_logged_and_drawn(tmp_path, brightness, exclusive):
    tiny_volume(tmp_path / "data")
    config = tiny_config(
        tmp_path, exclusive=exclusive, train__iterations=10, loss={"terms": {"brightness": 2.0}}
    )
    assert run("train", config) == 0
    rows = rows_of(tmp_path)
    assert list(rows[0])[:7] == [*BEFORE, "brightness"]
    for row in rows:
        terms = {name: float(row[name] or 0) for name in losses.TERMS}
        expected = sum(terms.values()) + terms["brightness"]
        assert np.isclose(float(row["loss"]), expected, rtol=1e-4)
        assert 0 < terms["brightness"] < 1
    left, _ = training_curves(rows).axes
    assert "brightness" in [line.get_label() for line in left.lines]
    [events] = (tmp_path / "run" / "tensorboard").iterdir()
    assert b"brightness" in events.read_bytes()
    assert run("train", config, "loss.terms.brightness=3") == 2  # another run


BEFORE = ["iteration", "loss", "bce", "dice", "side_contrast", "non_overlap"]
AFTER = ["side_right", "acceptance", "lr", "waited", "seconds"]


def test_a_log_has_the_columns_that_it_always_had_and_goes_on_from_one_that_has_others(tmp_path):
    tiny_volume(tmp_path / "data")
    config = tiny_config(tmp_path, train__iterations=2)
    assert "terms" not in training_identity(load_config([str(config)]))["loss"]
    assert run("train", config) == 0
    log = tmp_path / "run" / "log.csv"
    assert log.read_text().splitlines()[0] == ",".join([*BEFORE, *AFTER])
    kept = [
        {name: row[name] for name in row if name not in ("non_overlap", "waited")} | {"older": "7"}
        for row in rows_of(tmp_path)
    ]
    with open(log, "w", newline="") as file:
        table = csv.DictWriter(file, list(kept[0]))
        table.writeheader()
        table.writerows(kept)
    with TrainingLog(tmp_path / "run", [*BEFORE[2:], "newer"], 2) as again:
        again.write(3, {"loss": 1.0, "newer": 0.5, "lr": 0.1})
    rows = rows_of(tmp_path)
    assert list(rows[0]) == [*BEFORE, "newer", "older", *AFTER]
    assert [row["older"] for row in rows] == ["7", "7", ""]
    assert [row["newer"] for row in rows] == ["", "", "0.5"]
    assert [row["loss"] for row in rows[:2]] == [row["loss"] for row in kept]


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ({"brihtness": 1}, "loss.terms.brihtness: there is no such loss term; did you mean 'brigh"),
        ({"dice": 1}, "loss.terms.dice: there is no such loss term"),
        ({"brightness": -1}, "loss.terms.brightness: Input should be greater than or equal to 0"),
    ],
)
def test_a_term_that_cannot_be_meant_is_refused(tmp_path, brightness, capsys, terms, expected):
    tiny_volume(tmp_path / "data")
    config = tiny_config(tmp_path, loss={"terms": terms})
    assert expected in run_refused(capsys, "train", config)
    assert not (tmp_path / "run").exists()


def test_a_name_belongs_to_one_term():
    with pytest.raises(ValueError, match="'dice' already"):
        loss_term("dice")(lambda answer: None)


# ---------------------------------------------------------------- what is done with them


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
