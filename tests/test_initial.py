"""Training that begins with the weights of another one, and volumes that are drawn by weight."""

from __future__ import annotations

import shutil

import gunpowder as gp
import numpy as np
import pytest
import torch
import yaml
from recipes import recipe, run, run_refused, tiny_config, tiny_volume, write

from synpol.config import load_config
from synpol.images.image import open_image
from synpol.model.trained import digest_of_weights, latest_checkpoint, weights_of
from synpol.training.checkpoint import training_identity
from synpol.training.volumes import in_one_unit, open_volume, shares_of


def content(path):
    return torch.load(path, weights_only=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny volume, and a network for it."""
    folder = tmp_path_factory.mktemp("trained")
    tiny_volume(folder / "data")
    assert run("train", tiny_config(folder)) == 0
    return folder


@pytest.fixture
def begun(trained, tmp_path):
    """The checkpoint of a finished run, and the same data in a new folder."""
    shutil.copytree(trained / "data", tmp_path / "data")
    return latest_checkpoint(str(trained / "run")), tmp_path


def first(folder):
    return content(folder / "run" / "checkpoints" / "0000000.pt")


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in one.items())


def test_training_begins_with_the_averaged_weights_of_a_checkpoint(begun):
    checkpoint, folder = begun
    assert run("train", tiny_config(folder, train__initial=str(checkpoint))) == 0
    assert equal(first(folder)["model"], content(checkpoint)["ema"])
    assert equal(first(folder)["ema"], content(checkpoint)["ema"])
    last = content(latest_checkpoint(str(folder / "run")))
    assert last["iteration"] == 4 and not equal(last["model"], content(checkpoint)["ema"])


def test_a_run_resumes_with_the_same_initial_weights_wherever_they_lie(begun, capsys):
    checkpoint, folder = begun
    whole = tiny_config(folder, train__initial=str(checkpoint))
    assert run("train", whole) == 0
    expected = content(latest_checkpoint(str(folder / "run")))["model"]
    for late in ("0000004.pt", "0000002.pt"):
        (folder / "run" / "checkpoints" / late).unlink(missing_ok=True)
    moved = shutil.copy(checkpoint, folder / "moved.pt")
    for later in sorted((folder / "run" / "checkpoints").glob("*.pt"))[1:]:
        later.unlink()
    assert run("train", whole, f"train.initial={moved}") == 0
    assert equal(content(latest_checkpoint(str(folder / "run")))["model"], expected)
    other = checkpoint.with_name("0000002.pt")
    message = run_refused(capsys, "train", whole, f"train.initial={other}")
    assert "train.initial" in message and "give another run_dir" in message
    message = run_refused(capsys, "train", whole, "train.initial=null")
    assert "train.initial" in message


def test_a_config_without_initial_weights_keeps_its_identity(begun):
    _, folder = begun
    config = load_config([str(tiny_config(folder))])
    assert "initial" not in training_identity(config)["train"]
    assert "weight" not in training_identity(config)["data"]["train"][0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": {"filters": [4, 8]}}, ("model.filters = [4, 6]", "model.filters = [4, 8]")),
        ({"model": {"filters": [4, 6], "norm": "group"}}, ("model.norm = batch", "= group")),
        ({"model": {"filters": [4, 6], "activation": "prelu"}}, ("relu", "prelu")),
        ({"model": {"filters": [4, 6, 8]}}, ("[4, 6, 8]", "model.filters=[4,6]")),
    ],
)
def test_weights_that_do_not_fit_are_refused_with_a_way_that_works(begun, capsys, change, words):
    checkpoint, folder = begun
    config = tiny_config(folder, train__initial=str(checkpoint), **change)
    message = run_refused(capsys, "train", config)
    assert all(word in message for word in (*words, str(checkpoint)))
    assert not (folder / "run" / "checkpoints").exists()
    way = message.partition("same shape (")[2].partition(")")[0].split(" ")
    assert run("train", config, *way) == 0


def test_an_activation_whose_weights_fit_is_told(begun, caplog):
    checkpoint, folder = begun
    model = {"filters": [4, 6], "activation": "elu"}
    assert run("train", tiny_config(folder, train__initial=str(checkpoint), model=model)) == 0
    assert "model.activation = relu, the config has elu" in caplog.text


def test_the_last_layer_of_other_channels_begins_anew(begun, caplog):
    checkpoint, folder = begun
    config = tiny_config(folder, exclusive=True, train__initial=str(checkpoint))
    assert run("train", config) == 0
    assert "background, pre, post" in caplog.text and "last layer begins" in caplog.text
    before, now = content(checkpoint)["ema"], first(folder)["model"]
    assert {k for k in now if not torch.equal(now[k], before[k])} == {
        "head.2.weight",
        "head.2.bias",
    } - {k for k in ("head.2.bias",) if torch.equal(now[k], before[k])}


def test_other_voxels_and_intensities_are_told(begun, caplog):
    checkpoint, folder = begun
    raw = open_image(folder / "data" / "raw").array[:].astype(np.uint16) * 257
    truth = open_image(folder / "data" / "truth").array[:]
    for name, values in (("raw", raw), ("truth", truth)):
        write(folder / "other", name, values, voxel_size=(40, 8, 8))
    other = {"raw": f"{folder}/other/raw", "truth": f"{folder}/other/truth", "labels": "polarity"}
    config = tiny_config(folder, data={"train": [other]}, train__initial=str(checkpoint))
    assert run("train", config) == 0
    for words in ("(30, 16, 16) nm", "(40, 8, 8) nm", "uint8 of [0, 255]", "uint16 of [0, 65535]"):
        assert words in caplog.text


@pytest.mark.parametrize("bad", ["missing", "text", "nan"])
def test_initial_weights_that_cannot_be_used_are_refused(begun, capsys, bad):
    checkpoint, folder = begun
    path = folder / "bad.pt"
    if bad == "text":
        path.write_text("weights")
    elif bad == "nan":
        state = content(checkpoint)
        del state["digest"]
        weights_of(state)[1]["head.2.bias"][0] = np.nan
        torch.save(state, path)
    message = run_refused(capsys, "train", tiny_config(folder, train__initial=str(path)))
    assert str(path) in message and len(message) < 1000
    assert not (folder / "run" / "checkpoints").exists()


def test_weights_are_known_by_their_content(begun):
    checkpoint, _ = begun
    state = content(checkpoint)
    assert digest_of_weights(state["ema"]) != digest_of_weights(state["model"])


def weighted(folder, *weights, **changes):
    """A config of two volumes whose labels tell them apart: the second has no synapses."""
    entries = []
    for name, weight in zip(("data", "plain"), weights, strict=True):
        one = {"raw": f"{folder}/{name}/raw", "truth": f"{folder}/{name}/truth"}
        one |= {"labels": "polarity"} | ({} if weight is None else {"weight": weight})
        entries.append(one)
    return tiny_config(folder, data={"train": entries}, **changes)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    for name, level in (("data", 0), ("plain", 255)):
        truth = np.zeros((8, 48, 48), np.uint64)
        truth[2:6, 8:40, 8:24], truth[2:6, 8:40, 24:40] = 1, 2
        write(folder / name, "raw", np.full((8, 48, 48), level, np.uint8))
        write(folder / name, "truth", truth if name == "data" else truth * (truth % 2 == 9))
    return folder


#: changes of the image that leave its grey value
STILL = {"section_contrast": 0, "section_brightness": 0}


def drawn(config_path, count):
    """The share of patches of the second volume, whose image is white, among some draws."""
    train = recipe("train")
    config = load_config([str(config_path)])
    volumes = in_one_unit([open_volume(v, None) for v in config.data.train])
    size = config.train.batch_size
    graph = train.request_graph(config, volumes, 0, range(size))
    request, white = train.batch_request(config, volumes[0]), []
    with gp.build(graph):
        for _ in range(count // size):
            raw = train.request_batch(graph, request)[train.RAW].data
            white += [float(patch.mean()) > 0.5 for patch in raw]
    return white


@pytest.mark.parametrize("after", [False, True])
def test_shares_of_accepted_patches_are_the_weights(two, after):
    count = 80
    reject = {"size_thres": 200, "p": 0.5, "after_augmentation": after}
    config = weighted(two, 1, 3, augment=STILL, reject_sampling=reject)
    white = drawn(config, count)
    assert white == drawn(config, count)  # the same seed, the same volumes
    spread = (0.25 * 0.75 / count) ** 0.5
    assert abs(np.mean(white) - 0.75) < 3 * spread


def test_without_weights_places_decide_and_rejection_shifts_shares(two):
    config = weighted(two, None, None, augment=STILL, reject_sampling={"size_thres": 0})
    assert abs(np.mean(drawn(config, 60)) - 0.5) < 0.15
    config = weighted(
        two, None, None, augment=STILL, reject_sampling={"size_thres": 200, "p": 0.95}
    )
    assert np.mean(drawn(config, 40)) < 0.25  # the volume without synapses is rejected


def test_shares_follow_weights_or_places(two):
    config = load_config([str(weighted(two, 1, 3))])
    volumes = [open_volume(v, None) for v in config.data.train]
    assert shares_of(config.data.train, volumes, (4, 16, 16)) == [0.25, 0.75]
    config = load_config([str(weighted(two, None, None))])
    assert shares_of(config.data.train, volumes, (4, 16, 16)) == [0.5, 0.5]


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ((1, None), "train.1 has no weight"),
        ((0, 1), "data.train.0.weight"),
        ((-1, 1), "data.train.0.weight"),
        ((float("inf"), 1), "data.train.0.weight"),
    ],
)
def test_weights_that_say_no_shares_are_refused(two, capsys, weights, words):
    assert words in run_refused(capsys, "train", weighted(two, *weights))


def test_other_weights_are_another_run(two, capsys):
    assert run("train", weighted(two, 1, 2, run_dir=f"{two}/run_w")) == 0
    config = weighted(two, 2, 1, run_dir=f"{two}/run_w")
    assert "data.train" in run_refused(capsys, "train", config)
    told = yaml.safe_load((two / "run_w" / "train.resolved.yaml").read_text())
    assert told["config"]["data"]["train"][1]["weight"] == 2
