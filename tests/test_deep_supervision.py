"""Deep supervision: the loss of coarser levels, in training alone."""

from __future__ import annotations

import csv
import shutil

import pytest
import torch
from recipes import run, tiny_config, tiny_volume

from synpol.config import Loss, Model
from synpol.model import build_loss, build_model
from synpol.model.deep_supervision import DeeplySupervised, at_level
from synpol.model.trained import latest_checkpoint
from synpol.polarity import Channels

MODEL = {"filters": [4, 6, 8]}


def some_batch(exclusive):
    raw = torch.rand(2, 1, 3, 8, 12)
    classes = torch.randint(0, 3, (2, 3, 8, 12))
    if exclusive:
        return raw, classes, torch.ones(2, 3, 8, 12)
    target = torch.stack([classes == 1, classes == 2, classes > 0], 1).float()
    return raw, target, torch.rand(target.shape)


def test_a_coarser_level_takes_the_middle_voxel():
    plane = torch.arange(64).reshape(1, 8, 8)
    (half,) = at_level(1, plane)
    assert half[0].tolist() == [
        [9, 11, 13, 15],
        [25, 27, 29, 31],
        [41, 43, 45, 47],
        [57, 59, 61, 63],
    ]
    one, other = at_level(2, plane, plane.expand(2, 3, 8, 8))
    assert one[0].tolist() == [[18, 22], [50, 54]]
    assert other.shape == (2, 3, 2, 2) and torch.equal(other[1, 2], one[0])


@pytest.mark.parametrize("norm", ["batch", "group", "instance", "none"])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "elu", "prelu"])
def test_heads_change_nothing_of_the_network(norm, activation):
    model = Model(**MODEL, norm=norm, activation=activation)
    torch.manual_seed(1)
    alone = build_model(model)
    torch.manual_seed(1)
    learner = DeeplySupervised(build_model(model), model, 0.5)
    raw = some_batch(False)[0]
    weights, same = alone.state_dict(), learner.network.state_dict()
    assert list(weights) == list(same)
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    answers = learner(raw)
    assert [tuple(a.shape[2:]) for a in answers] == [(3, 8, 12), (3, 4, 6), (3, 2, 3)]
    assert torch.equal(answers[0], alone(raw))
    sum(a.square().mean() for a in answers).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in learner.heads.parameters())


@pytest.mark.parametrize("exclusive", [False, True])
def test_the_loss_is_that_of_all_levels_and_all_but_the_sides_is_halved(exclusive):
    torch.manual_seed(2)
    model = Model(**MODEL)
    learner = DeeplySupervised(build_model(model), model, 0.5)
    loss = build_loss(Loss(side_contrast=1.5), Channels.of(exclusive))
    raw, target, weights = some_batch(exclusive)
    answers = learner(raw)
    total, terms = learner.losses(loss, answers, target, weights)
    alone, expected = loss(answers[0], target, weights)
    assert all(torch.equal(terms[name], value) for name, value in expected.items())
    (_, half), (_, quarter) = (
        loss(answers[level], target[..., a::s, a::s], weights[..., a::s, a::s])
        for level, a, s in ((1, 1, 2), (2, 2, 4))
    )
    added = 0.5 * (half["bce"] + half["dice"] + 1.5 * half["side_contrast"])
    added += 0.5 * ((quarter["bce"] + quarter["dice"]) / 2 + 1.5 * quarter["side_contrast"])
    assert added > 0.5
    assert torch.isclose(terms["deep_supervision"], added)
    assert torch.isclose(total, alone + added)


def test_without_it_there_is_one_level():
    model = Model(**MODEL)
    learner = DeeplySupervised(build_model(model), model, 0.0)
    assert not list(learner.heads.parameters())
    raw, target, weights = some_batch(False)
    loss = build_loss(Loss(), Channels.of(False))
    (answer,) = learner(raw)
    total, terms = learner.losses(loss, [answer], target, weights)
    assert torch.equal(total, loss(answer, target, weights)[0])
    assert "deep_supervision" not in terms


def test_a_run_with_it_resumes_to_the_bit_and_its_network_is_one_without(tmp_path):
    tiny_volume(tmp_path / "data")
    settings = {"model": MODEL, "loss": {"deep_supervision": 0.5}}
    config = tiny_config(tmp_path, **settings, train__iterations=4)
    assert run("train", config) == 0
    whole = torch.load(latest_checkpoint(str(tmp_path / "run")), weights_only=True)
    with open(tmp_path / "run" / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(float(row["deep_supervision"]) > 0 for row in rows)
    (tmp_path / "run/checkpoints/0000004.pt").unlink()
    assert run("train", config) == 0
    resumed = torch.load(latest_checkpoint(str(tmp_path / "run")), weights_only=True)
    for part in ("model", "heads", "ema"):
        assert all(torch.equal(resumed[part][k], v) for k, v in whole[part].items()), part
    assert whole["heads"]
    assert list(whole["model"]) == list(build_model(Model(**MODEL)).state_dict())
    assert run("predict_blockwise", config) == 0
    shutil.rmtree(tmp_path / "run")
    assert run("train", tiny_config(tmp_path, model=MODEL)) == 0
    plain = torch.load(latest_checkpoint(str(tmp_path / "run")), weights_only=True)
    assert not plain["heads"]
    assert list(plain["model"]) == list(whole["model"])
    assert any(not torch.equal(plain["ema"][k], v) for k, v in whole["ema"].items())


def test_a_run_does_not_change_to_it_on_the_way(tmp_path, capsys):
    tiny_volume(tmp_path / "data")
    assert run("train", tiny_config(tmp_path)) == 0
    assert run("train", tiny_config(tmp_path), "loss.deep_supervision=0.5") == 2
    told = capsys.readouterr().err
    assert "was trained with loss.deep_supervision = its default, the config now has 0.5" in told
