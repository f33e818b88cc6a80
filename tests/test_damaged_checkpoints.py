"""Checkpoints that were cut, flipped or made by hand are refused; weights are told by content."""

from __future__ import annotations

import os
import random
import shutil
import zipfile

import numpy as np
import pytest
import torch
from recipes import run, run_refused, tiny_config, tiny_volume

from synpol import InputError
from synpol.blockwise.records import Done, write_record
from synpol.images.image import open_image
from synpol.model.content import DIGEST, digest_of_content, read_content
from synpol.model.trained import load_checkpoint
from synpol.report.figures import training_curves
from synpol.training.log import read_log


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of four iterations; returns its folder."""
    folder = tmp_path_factory.mktemp("trained")
    tiny_volume(folder / "data")
    assert run("train", tiny_config(folder)) == 0
    return folder


@pytest.fixture
def checkpoint(trained, tmp_path):
    """A copy of the newest checkpoint, which a test may damage."""
    return shutil.copy(trained / "run" / "checkpoints" / "0000004.pt", tmp_path / "a.pt")


def resaved(path, change, digest=True):
    """Change the content of a checkpoint and save it; with the digest of the changed content."""
    state = torch.load(path, weights_only=True)
    state.pop(DIGEST)
    state = change(state) or state
    if digest and isinstance(state, dict):
        state = {**state, DIGEST: digest_of_content(state)}
    torch.save(state, path)


def first_weight(state, key="ema"):
    return state[key][next(iter(state[key]))]


def replaced(key, value):
    def change(state):
        state[key] = value

    return change


def with_weight(make):
    """Replace the first tensor of the weights."""

    def change(state):
        name = next(iter(state["ema"]))
        state["ema"][name] = make(state["ema"][name])

    return change


#: what somebody may put into a checkpoint
BY_HAND = {
    "a list": lambda state: [1, 2],
    "no config": lambda state: {k: v for k, v in state.items() if k != "config"},
    "config is a list": replaced("config", [1]),
    "config is empty": replaced("config", {}),
    "model section is text": lambda state: state["config"].update(model="large"),
    "no iteration": lambda state: {k: v for k, v in state.items() if k != "iteration"},
    "iteration is text": replaced("iteration", "four"),
    "weights are a list": replaced("ema", [1, 2]),
    "weights without a name": replaced("ema", {"a": torch.zeros(1)}),
    "a weight is a number": with_weight(lambda w: 1.0),
    "nan": with_weight(lambda w: w * float("nan")),
    "infinity": with_weight(lambda w: w + float("inf")),
    "another shape": with_weight(lambda w: w.reshape(-1)),
    "another type": with_weight(lambda w: w.double()),
    "whole numbers": with_weight(lambda w: torch.zeros(w.shape, dtype=torch.int64)),
    "sparse": with_weight(lambda w: w.to_sparse()),
    "a shape without values": with_weight(lambda w: torch.zeros(1).expand(10**4, 10**4)),
}


@pytest.mark.parametrize("what", BY_HAND)
def test_a_checkpoint_made_by_hand_is_refused(trained, checkpoint, capsys, what):
    digest = what != "sparse"  # which has no content that a digest could be of
    resaved(checkpoint, BY_HAND[what], digest)
    config = tiny_config(trained)
    arguments = ("--only", "predict", f"predict.checkpoint={checkpoint}")
    message = run_refused(capsys, "predict_blockwise", config, *arguments)
    assert str(checkpoint) in message and len(message) < 1000
    assert not (trained / "result" / "polarity").exists()


@pytest.mark.parametrize("what", ["a.txt", "packed", "encrypted", "empty", "claims more"])
def test_a_file_that_is_no_checkpoint_is_refused(checkpoint, what):
    if what == "a.txt":
        checkpoint.write_text("weights")
    elif what == "empty":
        checkpoint.write_bytes(b"")
    elif what == "packed":
        with zipfile.ZipFile(checkpoint) as old:
            content = {m: old.read(m) for m in old.namelist()}
        with zipfile.ZipFile(checkpoint, "w", zipfile.ZIP_DEFLATED) as new:
            for name, member in content.items():
                new.writestr(name, member)
    else:
        content = bytearray(checkpoint.read_bytes())
        entry = content.rindex(b"PK\x01\x02")
        if what == "encrypted":
            content[entry + 8] |= 1
        else:
            content[entry + 24 : entry + 28] = (2**31).to_bytes(4, "little")
        checkpoint.write_bytes(content)
    with pytest.raises(InputError, match=r"is not a readable checkpoint.*a\.pt|a\.pt"):
        read_content(checkpoint)


def flip(path, rng):
    content = bytearray(path.read_bytes())
    place = rng.randrange(len(content))
    content[place] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return place


def same(one, other):
    """Whether two checkpoints hold the same, whatever is in the file beside."""
    return digest_of_content(one) == digest_of_content(other)


def try_flips(path, seeds, digest):
    """Flip one bit each; what is read nevertheless has to be what was written."""
    whole, original = path.read_bytes(), load_checkpoint(path)
    refused = 0
    for seed in seeds:
        path.write_bytes(whole)
        flip(path, random.Random(seed))
        try:
            assert same(load_checkpoint(path), original), seed
        except InputError as error:
            assert str(path) in str(error)
            refused += 1
    return refused


@pytest.mark.parametrize("digest", [True, False])
def test_a_flipped_bit_is_noticed_or_changes_nothing(checkpoint, digest):
    if not digest:  # an older checkpoint
        resaved(checkpoint, lambda state: None, digest=False)
    assert try_flips(checkpoint, range(40), digest) > 20


@pytest.mark.slow
def test_a_thousand_flipped_bits_are_noticed_or_change_nothing(checkpoint):
    assert try_flips(checkpoint, range(1000, 2000), True) > 500


def test_content_that_is_not_what_the_digest_says_is_refused(checkpoint):
    state = torch.load(checkpoint, weights_only=True)
    first_weight(state).view(-1)[0] += 1e-3
    torch.save(state, checkpoint)
    with pytest.raises(InputError, match="not what its digest says"):
        load_checkpoint(checkpoint)


def test_a_damaged_checkpoint_stops_no_training(trained, tmp_path, caplog):
    shutil.copytree(trained, tmp_path / "copy")
    config = tiny_config(tmp_path / "copy", train__iterations=6)
    folder = tmp_path / "copy" / "run" / "checkpoints"
    assert run("train", config) == 0
    expected = load_checkpoint(folder / "0000006.pt")
    (folder / "0000006.pt").unlink()
    newest = folder / "0000004.pt"
    newest.write_bytes(newest.read_bytes()[:5000])
    assert run("train", config) == 0
    assert (folder / "0000004.damaged").exists()
    assert "goes on without it" in caplog.text
    # the learning rate follows the longer run from iteration 2 on here, from 4 on before
    found = load_checkpoint(folder / "0000006.pt")
    assert found["iteration"] == expected["iteration"] == 6


def test_training_does_not_go_on_from_a_checkpoint_made_by_hand(trained, tmp_path, capsys):
    for change in (
        replaced("optimizer", {}),
        replaced("optimizer", {"state": 1, "param_groups": [1]}),
        replaced("schedule", [1]),
        replaced("averaged", "many"),
        replaced("data_state", [[1], 2]),
        lambda state: state["config"]["train"].pop("iterations") and None,
        lambda state: first_weight(state, "model").fill_(float("nan")) is None,
    ):
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(trained, tmp_path / "copy")
        newest = tmp_path / "copy" / "run" / "checkpoints" / "0000004.pt"
        resaved(newest, change)
        message = run_refused(capsys, "train", tiny_config(tmp_path / "copy", train__iterations=6))
        assert str(newest) in message, message


def test_equal_weights_in_another_file_are_not_predicted_with_again(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "copy")
    folder = tmp_path / "copy"
    newest = folder / "run" / "checkpoints" / "0000004.pt"
    config = tiny_config(folder)
    arguments = ("predict_blockwise", config, "--only", "predict")
    assert run(*arguments) == 0
    shards = sorted((folder / "result" / "polarity" / "s0" / "c").rglob("*"))
    before = {p: p.stat().st_mtime_ns for p in shards if p.is_file()}
    content = newest.read_bytes()
    state = torch.load(newest, weights_only=True)
    torch.save(dict(reversed(state.items())), newest)  # other bytes, equal tensors
    assert newest.read_bytes() != content
    assert run(*arguments) == 0
    assert {p: p.stat().st_mtime_ns for p in before} == before
    resaved(newest, with_weight(lambda w: w + 0.5))
    assert run(*arguments) == 0
    assert {p: p.stat().st_mtime_ns for p in before} != before


def test_a_resumed_run_writes_weights_of_the_same_digest(trained, tmp_path):
    digests = []
    for name, stops in (("whole", [4]), ("resumed", [2, 4])):
        folder = tmp_path / name
        shutil.copytree(trained / "data", tmp_path / "data", dirs_exist_ok=True)
        folder.mkdir()
        for stop in stops:
            config = tiny_config(tmp_path, run_dir=str(folder), train__iterations=4)
            if stop == 2:
                assert run("train", config) == 0
                (folder / "checkpoints" / "0000004.pt").unlink()
                continue
            assert run("train", config) == 0
        state = load_checkpoint(folder / "checkpoints" / "0000004.pt")
        digests.append([digest_of_content(state[key]) for key in ("model", "ema")])
    assert digests[0] == digests[1]


def test_a_best_checkpoint_that_is_damaged_is_made_anew_by_training(trained, tmp_path):
    shutil.copytree(trained / "data", tmp_path / "data")
    config = tiny_config(tmp_path, train__validate_every=2, decode__thres=0.01)
    assert run("train", config) == 0
    best, rows = tmp_path / "run" / "checkpoints" / "best.pt", tmp_path / "run" / "validation.csv"
    for damaged in (best, rows):
        if damaged.exists():
            damaged.write_bytes(os.urandom(300))
    assert run("train", config) == 0
    if best.exists():
        load_checkpoint(best)


def test_a_digest_tells_values_types_and_places_apart():
    values = [
        1, 1.0, True, "1", None, [1], [[1]], {"1": 1}, {1: 1}, [], {}, "", [1, 1], ["11"],
        torch.ones(1), torch.ones(1, 1), torch.ones(1, dtype=torch.int64), torch.ones(2),
        torch.tensor(1.0), 0.0, -0.0, float("nan"),
    ]  # fmt: skip
    digests = [digest_of_content(value) for value in values]
    assert len(set(digests)) == len(values)
    strided = torch.arange(12.0).reshape(3, 4)
    assert digest_of_content(strided.T) == digest_of_content(strided.T.contiguous())
    assert digest_of_content(strided) != digest_of_content(strided.T)


def test_a_prediction_that_was_told_by_the_file_is_kept(trained, tmp_path):
    """What an older version predicted carries the SHA-256 of the file in its hash."""
    import synpol.prediction.job as job_module

    shutil.copytree(trained, tmp_path / "copy")
    config = tiny_config(tmp_path / "copy")
    arguments = ("predict_blockwise", config, "--only", "predict")
    hash_of = job_module.hash_of
    file_digests = []

    def older(output, about, file_digest):
        file_digests.append(file_digest)
        return hash_of(about | {"checkpoint": file_digest})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job_module, "_digest", older)
        assert run(*arguments) == 0
    array = open_image(tmp_path / "copy" / "result" / "polarity").array
    told, values = dict(array.attrs), np.asarray(array[:])
    marked = open_image(tmp_path / "copy" / "result" / "polarity", mode="r+").array
    marked[:] = 7  # so that it shows if it is made again
    for record in (tmp_path / "copy").rglob("predict-*/**/*.record"):  # older ones note no sizes
        index = int(record.parts[-3]), int(record.parts[-2]), int(record.stem)
        write_record(record.parents[2], index, Done())
    assert run(*arguments) == 0
    array = open_image(tmp_path / "copy" / "result" / "polarity").array
    assert dict(array.attrs) == told and (np.asarray(array[:]) == 7).all()
    checkpoint = tmp_path / "copy" / "run" / "checkpoints" / "0000004.pt"
    torch.save(torch.load(checkpoint, weights_only=True), checkpoint.with_suffix(".new"))
    state = dict(reversed(torch.load(checkpoint, weights_only=True).items()))
    torch.save(state, checkpoint)  # the file is another one: told by its weights from here on
    assert run(*arguments) == 0
    found = open_image(tmp_path / "copy" / "result" / "polarity").array
    assert np.array_equal(np.asarray(found[:]), values)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: b"\xff\x00garbage\n,,,\r" * 20,
        lambda content: b"iteration,loss\nx,y\n",
        lambda content: content.replace(b"3", b"x"),
        lambda content: content.replace(b",", b"\0", 30),
    ],
    ids=["cut", "empty", "garbage", "other rows", "letters", "zero bytes"],
)
def test_logs_that_are_damaged_stop_no_training_and_no_report(trained, tmp_path, damage):
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    config = tiny_config(folder, train__iterations=6)
    for name in ("log.csv", "timings.csv"):
        path = folder / "run" / name
        path.write_bytes(damage(path.read_bytes()))
    assert run("train", config) == 0
    rows = list(read_log(folder / "run" / "log.csv"))
    assert [int(row["iteration"]) for row in rows][-2:] == [5, 6]
    training_curves(rows)
