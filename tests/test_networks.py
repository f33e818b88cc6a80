"""Networks that travel: one file, or a package of bioimage.io; what they are and predict."""

from __future__ import annotations

import json
import os
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from recipes import run, run_refused, tiny_config, tiny_volume
from safetensors import safe_open
from safetensors.torch import save_file

from synpol.images.image import open_image
from synpol.model.rsunet import RSUNet
from synpol.model.trained import latest_checkpoint, load_checkpoint

PACKAGE = (
    "export.name=Tiny synapses",
    "export.description=Marks both sides of synapses in a tiny volume.",
    "export.authors=[{name: A Person}]",
    "export.license=MIT",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny volume, a network for it, and both exports."""
    folder = tmp_path_factory.mktemp("trained")
    tiny_volume(folder / "data")
    config = tiny_config(folder, train__validate_every=4)
    assert run("train", config) == 0
    given = (f"export.package={folder}/net.bioimage.io.zip", f"export.sample={folder}/data/raw")
    assert run("export", config, *PACKAGE, *given) == 0
    return folder


@pytest.fixture
def network(trained, tmp_path):
    """A copy of the exported network, which a test may damage."""
    return shutil.copy(trained / "run" / "network.safetensors", tmp_path / "a.safetensors")


def described(path):
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["synpol"])


def test_the_file_says_what_the_network_is_and_nothing_of_this_machine(trained, network):
    said = described(network)
    assert said["model"]["filters"] == [4, 6] and said["channels"] == ["pre", "post", "union"]
    assert said["activation"] == "sigmoid" and said["iteration"] == 4
    assert said["learned_from"][0]["voxel_size"] == [30, 16, 16]
    assert said["trained_on"] == ["raw"] and "f1" in said["scores"]
    written = Path(network).read_bytes()
    assert str(trained).encode() not in written and os.uname().nodename.encode() not in written
    with zipfile.ZipFile(trained / "net.bioimage.io.zip") as package:
        assert not any(str(trained).encode() in package.read(m) for m in package.namelist())


def test_the_same_network_gives_the_same_bytes(trained):
    config = tiny_config(trained, train__validate_every=4)
    given = (f"export.package={trained}/again.zip", f"export.sample={trained}/data/raw")
    assert run("export", config, *PACKAGE, *given, f"export.output={trained}/b.safetensors") == 0
    for one, other in (
        ("again.zip", "net.bioimage.io.zip"),
        ("b.safetensors", "run/network.safetensors"),
    ):
        assert (trained / one).read_bytes() == (trained / other).read_bytes()


@pytest.mark.parametrize("name", ["run/network.safetensors", "net.bioimage.io.zip"])
def test_prediction_from_it_has_the_bytes_of_that_from_the_checkpoint(trained, name):
    results = []
    best = trained / "run" / "checkpoints" / "0000004.pt"
    for number, file in enumerate((best, trained / name)):
        output = f"{trained}/{name.replace('/', '_')}_{number}"
        given = (f"predict.checkpoint={file}", f"predict.output={output}", "--only", "predict")
        assert run("predict_blockwise", tiny_config(trained), *given) == 0
        results.append(open_image(f"{output}/polarity").array[:])
    assert results[0].any() and np.array_equal(*results)


@pytest.mark.parametrize("name", ["run/network.safetensors", "net.bioimage.io.zip"])
def test_training_begins_with_it(trained, tmp_path, name):
    shutil.copytree(trained / "data", tmp_path / "data")
    config = tiny_config(tmp_path, train__initial=str(trained / name))
    assert run("train", config) == 0
    first = load_checkpoint(tmp_path / "run" / "checkpoints" / "0000000.pt")
    whole = load_checkpoint(latest_checkpoint(str(trained / "run")))
    assert all(torch.equal(first["model"][k], v) for k, v in whole["ema"].items())
    # a checkpoint with the same weights is the same beginning
    same = tiny_config(tmp_path, train__initial=str(latest_checkpoint(str(trained / "run"))))
    assert run("train", same) == 0


def test_its_contract_holds_as_that_of_a_checkpoint(trained, network, capsys):
    given = (f"predict.checkpoint={network}", f"predict.output={trained}/none")
    for change, words in (
        ("model.filters=[4,8]", "model.filters = [4, 6]"),
        ("exclusive=true", "exclusive = False"),
        ("data.intensity_range=[0,200]", "data.intensity_range = None"),
    ):
        message = run_refused(capsys, "predict_blockwise", tiny_config(trained), *given, change)
        assert words in message and str(network) in message


def edited(path, change, keep_digest=True):
    """Write a network again with another description or other weights."""
    with safe_open(path, "pt") as file:
        said = json.loads(file.metadata()["synpol"])
        weights = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    change(said, weights)
    if not keep_digest:
        from synpol.model.content import digest_of_content

        said.pop("digest", None)
        said["digest"] = digest_of_content([said, weights])
    save_file(weights, path, {"synpol": json.dumps(said)})


def poisoned(said, weights):
    weights["head.2.bias"][0] = float("nan")


HOSTILE = {
    "nan": (poisoned, False, "not finite"),
    "other weights": (lambda s, w: w["head.2.bias"].add_(1), True, "digest"),
    "other words": (lambda s, w: s.update(iteration=9), True, "digest"),
    "a weight too few": (lambda s, w: w.pop("head.2.bias"), False, "names"),
    "another shape": (
        lambda s, w: w.update({"head.2.bias": torch.zeros(4)}),
        False,
        "(4,)",
    ),
    "no digest": (lambda s, w: s.pop("digest"), True, "digest"),
    "format 2": (lambda s, w: s.update(format=2), False, "format 2"),
    "huge network": (lambda s, w: s["model"].update(filters=[10**9, 10**9]), False, "filters"),
    "text for a number": (lambda s, w: s.update(iteration="x"), False, "iteration"),
    "unknown key": (lambda s, w: s.update(more=1), False, "more"),
    "voxels of 0": (lambda s, w: s["learned_from"][0].update(voxel_size=[0, 1, 1]), False, "voxel"),
    "channels swapped": (
        lambda s, w: s.update(channels=["background", "pre", "post"]),
        False,
        "channels",
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_network_made_by_hand_is_refused(trained, network, capsys, what):
    change, keep, words = HOSTILE[what]
    edited(network, change, keep)
    given = (f"predict.checkpoint={network}", f"predict.output={trained}/hostile")
    message = run_refused(capsys, "predict_blockwise", tiny_config(trained), *given)
    assert words in message and str(network) in message and len(message) < 1000


def header_of(content):
    size = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def with_header(content, change):
    header, rest = header_of(content)
    change(header)
    packed = json.dumps(header).encode()
    return struct.pack("<Q", len(packed)) + packed + rest


def claims_more(header):
    header["head.2.bias"]["data_offsets"] = [0, 2**50]


DAMAGED = {
    "empty": lambda c: b"",
    "text": lambda c: b"weights",
    "cut": lambda c: c[: len(c) // 2],
    "longer": lambda c: c + b"0",
    "huge header": lambda c: struct.pack("<Q", 2**60) + c[8:],
    "claims more": lambda c: with_header(c, claims_more),
    "no description": lambda c: with_header(c, lambda h: h.pop("__metadata__")),
    "deep description": lambda c: with_header(
        c, lambda h: h["__metadata__"].update(synpol="[" * 10**5)
    ),
    "a flipped bit": lambda c: c[:-9] + bytes([c[-9] ^ 4]) + c[-8:],
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_network_is_refused(trained, network, capsys, what):
    path = Path(network)
    path.write_bytes(DAMAGED[what](path.read_bytes()))
    given = (f"predict.checkpoint={network}", f"predict.output={trained}/damaged")
    message = run_refused(capsys, "predict_blockwise", tiny_config(trained), *given)
    assert "copy it again" in message and str(network) in message and len(message) < 1000


def test_a_package_without_a_network_of_synpol_is_refused(trained, tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as package:
        package.writestr("rdf.yaml", "type: model")
    message = run_refused(
        capsys,
        "predict_blockwise",
        tiny_config(trained),
        f"predict.checkpoint={tmp_path}/other.zip",
    )
    assert "no network.safetensors" in message


def test_a_package_asks_for_all_that_is_missing(trained, tmp_path, capsys):
    config, given = tiny_config(trained), f"export.package={tmp_path}/p.zip"
    message = run_refused(capsys, "export", config, given)
    for key in ("export.name", "export.description", "export.authors", "export.license"):
        assert key in message
    assert "export.license" in run_refused(capsys, "export", config, given, *PACKAGE[:3])
    message = run_refused(capsys, "export", config, f"export.output={tmp_path}/net.pt")
    assert "net.safetensors" in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("exclusive", [False, True])
def test_bioimageio_validates_and_runs_the_package(trained, tmp_path, exclusive, monkeypatch):
    monkeypatch.setenv("BIOIMAGEIO_CACHE_PATH", str(tmp_path / "cache"))
    from bioimageio import core

    package = trained / "net.bioimage.io.zip"
    if exclusive:
        shutil.copytree(trained / "data", tmp_path / "data")
        package = tmp_path / "classes.zip"
        config, changes = tiny_config(tmp_path, exclusive=True), ["model.residual=false"]
        assert run("train", config, *changes) == 0
        assert run("export", config, *changes, *PACKAGE, f"export.package={package}") == 0
    summary = core.test_model(str(package))
    assert summary.status == "passed", summary.format()
    described = core.load_model(str(package))
    assert described.license == "MIT" and described.authors[0].name == "A Person"
    with zipfile.ZipFile(package) as archive:
        rdf = yaml.safe_load(archive.read("rdf.yaml"))
        assert archive.read("rsunet.py").find(b"import synpol") < 0
    assert rdf["outputs"][0]["postprocessing"][0]["id"] == ("softmax" if exclusive else "sigmoid")


def test_channels_may_be_mixed_before_upsampling():
    model = RSUNet((4, 6, 8)).double().eval()
    image = torch.rand((2, 1, 3, 16, 20), dtype=torch.float64)
    levels = [model.encode[0](image)]
    for block in model.encode[1:]:
        levels.append(block(model.pool(levels[-1])))
    up = torch.nn.Upsample(scale_factor=(1, 2, 2), mode="trilinear")
    x = levels[-1]
    for level in (1, 0):  # as published: upsampled, then mixed by a convolution of one voxel
        x = model.decode[level](model.project[level](up(x)) + levels[level])
    torch.testing.assert_close(model(image), model.head(x), rtol=1e-10, atol=1e-10)


def test_blocks_without_a_residual_pair_have_two_convolutions():
    found = {residual: RSUNet((4, 6, 8), residual=residual) for residual in (True, False)}
    blocks = {r: [*n.encode, *n.decode] for r, n in found.items()}
    for residual, count in ((True, 4), (False, 2)):
        for block in blocks[residual]:
            kinds = [m for m in block.modules() if isinstance(m, torch.nn.Conv3d)]
            assert len(kinds) == count
    image = torch.rand((1, 1, 3, 16, 20))
    assert found[False].eval()(image).shape == (1, 3, 3, 16, 20)


def test_a_run_does_not_change_its_blocks_on_the_way(tmp_path, capsys):
    tiny_volume(tmp_path / "data")
    config = tiny_config(tmp_path)
    assert run("train", config) == 0
    message = run_refused(capsys, "train", config, "model.residual=false")
    assert "was trained with model.residual = its default, the config now has False" in message
    config = tiny_config(tmp_path, run_dir=f"{tmp_path}/plain")
    assert run("train", config, "model.residual=false") == 0
    message = run_refused(capsys, "train", config)
    assert "was trained with model.residual = False, the config now has its default" in message
    assert run("train", config, "model.residual=false", "train.iterations=6") == 0
