"""What is predicted is like what was learned from: voxels, types, intensities, missing places."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
import yaml
from recipes import run, run_refused, tiny_config, tiny_volume, write

from synpol.blockwise import driver
from synpol.config import TrainingVolume
from synpol.images.appearance import is_like
from synpol.images.image import open_image
from synpol.model.trained import latest_checkpoint
from synpol.prediction import contract

PRECISE = {"train__precision": "float32"}


def volume(folder, name="data", **more):
    return {
        "raw": f"{folder}/{name}/raw",
        "truth": f"{folder}/{name}/truth",
        "labels": "polarity",
    } | more


def copied(folder, name, raw=None, **placement):
    """The tiny volume once more, with another image or at another place."""
    for one in ("raw", "truth"):
        values = open_image(folder / "data" / one).array[:]
        write(folder / name, one, values if raw is None or one == "truth" else raw, **placement)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny volume of uint8 and 30 x 16 x 16 nm, and a network for it."""
    folder = tmp_path_factory.mktemp("trained")
    tiny_volume(folder / "data")
    assert run("train", tiny_config(folder, **PRECISE)) == 0
    return folder


def kept(folder):
    return torch.load(latest_checkpoint(str(folder / "run")), weights_only=True)


def prediction(folder, raw, *changes, name="out"):
    config = tiny_config(folder, **PRECISE)
    given = (f"predict.raw={raw}", f"predict.output={folder}/{name}", "--only", "predict")
    assert run("predict_blockwise", config, *given, *changes) == 0
    return open_image(folder / name / "polarity").array[:]


def refusal(capsys, folder, raw, *changes):
    given = (f"predict.raw={raw}", f"predict.output={folder}/refused", *changes)
    message = run_refused(capsys, "predict_blockwise", tiny_config(folder, **PRECISE), *given)
    assert not (folder / "refused").exists()
    return message


def test_a_checkpoint_keeps_what_its_network_learned_from(trained):
    [learned] = kept(trained)["learned_from"]
    assert learned == {
        "voxel_size": [30.0, 16.0, 16.0],
        "dtype": "uint8",
        "intensity_range": [0.0, 255.0],
        "largest": None,
    }


@pytest.mark.parametrize("command", ["predict_blockwise", "tune", "train"])
def test_voxels_of_another_size_are_refused_with_both_sizes(trained, tmp_path, capsys, command):
    shutil.copytree(trained / "data", tmp_path / "data")
    copied(tmp_path, "other", voxel_size=(30, 16, 17))
    if command == "train":  # before anything is trained
        config = tiny_config(tmp_path, train__validate_every=2)
    else:
        config = tiny_config(tmp_path, run_dir=f"{trained}/run", **PRECISE)
    changes = [f"predict.raw={tmp_path}/other/raw"]
    changes += [
        f"data.validation={yaml.safe_dump(volume(tmp_path, 'other'), default_flow_style=1)}"
    ]
    message = run_refused(capsys, command, config, *changes)
    for words in ("other/raw", "(30, 16, 17) nm", "(30, 16, 16) nm", "predict.resample=true"):
        assert words in message
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert run(command, config, *changes, "predict.resample=true") == 0


def test_a_hundredth_of_a_voxel_is_no_other_size(trained):
    values = open_image(trained / "data" / "raw").array[:]
    write(trained, "near", values, voxel_size=(300, 161, 159), unit="angstrom")
    near = prediction(trained, f"{trained}/near", name="near_out")
    assert np.array_equal(near, prediction(trained, f"{trained}/data/raw", name="plain"))
    sizes = [(40, 4, 4), (40, 8, 8)]
    assert is_like((40, 5, 8), sizes) and is_like((40.4, 4, 8.08), sizes)
    assert not is_like((41, 4, 4), sizes) and not is_like((40, 3.9, 4), sizes)


def test_training_volumes_of_other_sizes_are_told_or_refused(tmp_path, capsys, caplog):
    tiny_volume(tmp_path / "data")
    copied(tmp_path, "near", voxel_size=(300, 164, 164), unit="angstrom")
    copied(tmp_path, "far", voxel_size=(30, 18, 18))
    config = tiny_config(tmp_path, data={"train": [volume(tmp_path), volume(tmp_path, "near")]})
    assert run("train", config) == 0
    assert "near/raw" in caplog.text and "(30, 16.4, 16.4) nm" in caplog.text.replace(".0,", ",")
    assert "as if they were equal" in caplog.text
    config = tiny_config(tmp_path, data={"train": [volume(tmp_path), volume(tmp_path, "far")]})
    message = run_refused(capsys, "train", config)
    assert "(30, 18, 18) nm" in message and "data.mixed_voxel_sizes=true" in message
    shutil.rmtree(tmp_path / "run")
    mixed = "data.mixed_voxel_sizes=true"
    assert run("train", config, mixed) == 0
    assert len(kept(tmp_path)["learned_from"]) == 2
    copied(tmp_path, "between", voxel_size=(30, 17, 17))
    assert run("predict_blockwise", config, mixed, f"predict.raw={tmp_path}/between/raw") == 0
    copied(tmp_path, "beyond", voxel_size=(30, 19, 19))
    message = run_refused(
        capsys, "predict_blockwise", config, mixed, f"predict.raw={tmp_path}/beyond/raw"
    )
    assert "(30, 16, 16) nm and (30, 18, 18) nm" in message


@pytest.mark.parametrize(
    ("dtype", "factor", "range_"),
    [(np.uint16, 257, "[0,65535]"), (np.float32, 1 / 255, "[0,1]"), (np.float64, 1.0, "[0,255]")],
)
def test_another_type_is_refused_until_its_range_is_said(trained, capsys, dtype, factor, range_):
    values = open_image(trained / "data" / "raw").array[:].astype(float) * factor
    name = f"as_{np.dtype(dtype).name}"
    write(trained, name, values.astype(dtype))
    message = refusal(capsys, trained, f"{trained}/{name}")
    assert name in message and "predict.intensity_range=[low,high]" in message
    if factor != 1:
        assert "uint8 of [0, 255]" in message
    expected = prediction(trained, f"{trained}/data/raw", name="plain").astype(int)
    said = f"predict.intensity_range={range_}"
    assert np.abs(prediction(trained, f"{trained}/{name}", said) - expected).max() <= 1


def test_each_volume_may_have_a_range_of_its_own(tmp_path, capsys):
    tiny_volume(tmp_path / "data")
    raw = open_image(tmp_path / "data" / "raw").array[:]
    copied(tmp_path, "twelve", raw.astype(np.uint16) * 16)
    one, two = volume(tmp_path), volume(tmp_path, "twelve", intensity_range=[0, 255 * 16])
    images = []
    for train in ([one, one], [one, two]):
        config = tiny_config(tmp_path, data={"train": train, "validation": two}, **PRECISE)
        assert run("train", config) == 0
        images.append(kept(tmp_path)["model"])
        if train[1] is one:
            shutil.rmtree(tmp_path / "run")
    assert all(
        torch.allclose(a, b, atol=1e-4) for a, b in zip(*map(dict.values, images), strict=True)
    )
    ranges = [one["intensity_range"] for one in kept(tmp_path)["learned_from"]]
    assert ranges == [[0.0, 255.0], [0.0, 4080.0]]
    assert run("tune", config) == 0
    arguments = (config, f"predict.raw={tmp_path}/twelve/raw")
    assert "[0, 4080]" in run_refused(capsys, "predict_blockwise", *arguments)
    assert run("predict_blockwise", *arguments, "predict.intensity_range=[0,4080]") == 0
    config = tiny_config(tmp_path, data={"train": [one, two | {"intensity_range": [0, 4095]}]})
    assert "was trained with data.train" in run_refused(capsys, "train", config)
    wrong = tiny_config(tmp_path, data={"train": [one | {"intensity_range": [5, 5]}]})
    message = run_refused(capsys, "train", wrong)
    assert "data.train.0.intensity_range" in message and "low, high is expected" in message


def test_ranges_that_are_not_said_leave_a_config_as_it_was():
    told = volume("x")
    assert TrainingVolume.model_validate(told).model_dump() == told


@pytest.mark.parametrize(("bits", "share"), [(10, "0.016"), (12, "0.062"), (14, "0.25")])
def test_fewer_bits_in_uint16_are_told_before_training(tmp_path, caplog, bits, share):
    tiny_volume(tmp_path / "data")
    raw = open_image(tmp_path / "data" / "raw").array[:].astype(np.uint16)
    copied(tmp_path, "narrow", raw * 2 ** (bits - 8))
    config = tiny_config(tmp_path, data={"train": [volume(tmp_path, "narrow")]})
    assert run("train", config) == 0
    assert f"{bits} bits, of which the network sees only {share} of its range" in caplog.text
    assert f"data.intensity_range=[0, {2**bits - 1}]" in caplog.text
    assert run("predict_blockwise", config, f"predict.raw={tmp_path}/narrow/raw") == 0
    assert "as the data that" in caplog.text


def test_full_uint16_is_not_told_and_fewer_bits_to_predict_are(tmp_path, caplog):
    tiny_volume(tmp_path / "data")
    raw = open_image(tmp_path / "data" / "raw").array[:].astype(np.uint16)
    copied(tmp_path, "full", raw * 257)
    config = tiny_config(tmp_path, data={"train": [volume(tmp_path, "full")]})
    assert run("train", config) == 0
    full = f"predict.raw={tmp_path}/full/raw"
    assert run("predict_blockwise", config, full) == 0
    assert "uint16" not in caplog.text
    copied(tmp_path, "narrow", raw * 16)
    assert run("predict_blockwise", config, f"predict.raw={tmp_path}/narrow/raw") == 0
    assert "predict.intensity_range=[0, 4095]" in caplog.text


def test_an_older_checkpoint_says_what_can_be_derived_or_a_word_is_said_once(
    trained, tmp_path, capsys, caplog, monkeypatch
):
    monkeypatch.setattr(contract, "_told", set())
    shutil.copytree(trained / "data", tmp_path / "data")
    copied(tmp_path, "other", voxel_size=(30, 16, 17))
    other = f"predict.raw={tmp_path}/other/raw"
    state, old = kept(trained), tmp_path / "old.pt"
    del state["learned_from"], state["digest"]  # older ones had neither
    torch.save(state, old)
    config = tiny_config(tmp_path, predict__checkpoint=str(old), **PRECISE)
    assert run("predict_blockwise", config) == 0
    assert "what it learned from" not in caplog.text
    message = run_refused(capsys, "predict_blockwise", config, other)
    assert "old.pt learned from voxels of (30, 16, 16) nm" in message
    state["data_state"] = []
    torch.save(state, old)
    for _ in range(2):
        assert run("predict_blockwise", config, other, f"predict.output={tmp_path}/new") == 0
    assert caplog.text.count("does not say what it learned from") == 1
    message = run_refused(capsys, "predict_blockwise", config, other, "predict.resample=true")
    assert "old.pt does not say it" in message


HOLES = ((1, 2, 2), (1, 2, 3), (6, 40, 45))


@pytest.fixture(scope="module")
def floats(tmp_path_factory):
    """A tiny float volume and a network for it; the same with holes."""
    folder = tmp_path_factory.mktemp("floats")
    tiny_volume(folder / "data")
    raw = open_image(folder / "data" / "raw").array[:].astype(np.float32) / 255
    copied(folder, "sound", raw)
    for value, place in zip((np.nan, np.inf, -np.inf), HOLES, strict=True):
        raw[place] = value
    copied(folder, "holed", raw)
    shutil.rmtree(folder / "data")
    shutil.copytree(folder / "sound", folder / "data")
    assert run("train", tiny_config(folder, **PRECISE)) == 0
    return folder


@pytest.mark.parametrize("more", [{}, {"intensity_range": [-1, 2]}])
def test_nan_and_infinite_values_are_found_before_training(floats, tmp_path, capsys, more):
    config = tiny_config(
        tmp_path, data={"train": [volume(floats), volume(floats, "holed", **more)]}
    )
    message = run_refused(capsys, "train", config)
    assert "holed/raw/s0 holds 3 voxels that are NaN or infinite" in message
    assert "the first at the voxel (1, 2, 2)" in message
    assert not (tmp_path / "run").exists()
    truth = open_image(floats / "holed" / "truth").array[:]
    write(tmp_path / "part", "truth", truth[2:6], offset=(60, 0, 0))
    part = volume(floats, "holed") | {"truth": f"{tmp_path}/part/truth"}
    assert run("train", tiny_config(tmp_path, data={"train": [part]})) == 0  # as the message says


@pytest.mark.parametrize("blending", ["bump", "crop"])
def test_missing_places_are_zero_and_change_what_their_windows_see(floats, blending):
    changes = ("predict.overlap=0.5", f"predict.blending={blending}")
    sound = prediction(floats, f"{floats}/sound/raw", *changes)
    holed = prediction(floats, f"{floats}/holed/raw", *changes, name="h")
    filled = open_image(floats / "holed" / "raw").array[:]
    filled[~np.isfinite(filled)] = 0
    write(floats, f"filled_{blending}", filled)
    black = prediction(floats, f"{floats}/filled_{blending}", *changes, name="b")
    missing = np.zeros(sound.shape[1:], bool)
    missing[tuple(np.transpose(HOLES))] = True
    assert np.array_equal(holed, black * ~missing)
    assert black[:, missing].any() and sound[:, missing].any()
    far = np.ones(missing.shape, bool)
    for z, y, x in HOLES:  # a window of 4 x 16 x 16 around
        far[max(0, z - 4) : z + 5, max(0, y - 16) : y + 17, max(0, x - 16) : x + 17] = False
    assert far.any() and np.array_equal(holed[:, far], sound[:, far])


def test_missing_voxels_are_counted_once_and_told_again(floats, caplog, monkeypatch):
    monkeypatch.setattr(driver, "DRIVER_VOXELS", 0)
    blocks = ("predict.block_shape=[4,16,16]", "predict.chunk_shape=[4,16,16]")
    shared = ("workers.num_predict_workers=2", "workers.cpus=1")
    words = "3 voxels are NaN or infinite, the first at the voxel (1, 2, 2)"
    found = prediction(floats, f"{floats}/holed/raw", *blocks, *shared, name="counted")
    assert words in caplog.text
    [record] = (floats / "counted.work").glob("predict-*/1/2/2.record")
    record.unlink()
    for _ in range(2):  # a block is missing, then none is
        caplog.clear()
        again = prediction(floats, f"{floats}/holed/raw", *blocks, name="counted")
        assert np.array_equal(again, found) and words in caplog.text
    caplog.clear()
    roi = "predict.roi={offset: [150, 0, 0], shape: [90, 768, 768]}"
    part = prediction(floats, f"{floats}/holed/raw", roi, name="part")
    assert "1 voxels are NaN or infinite, the first at the voxel (6, 40, 45)" in caplog.text
    assert not part[:, 1, 40, 45].any() and part.any()


def test_missing_places_of_a_resampled_image_are_zero(floats, caplog):
    fine = open_image(floats / "holed" / "raw").array[:].repeat(2, 1).repeat(2, 2)
    write(floats, "fine", fine, voxel_size=(30, 8, 8))
    found = prediction(floats, f"{floats}/fine", "predict.resample=true", name="fine_out")
    assert "12 voxels are NaN or infinite, the first at the voxel (1, 4, 4)" in caplog.text
    missing = ~np.isfinite(fine)
    assert not found[:, missing].any() and (found[2] == 0).sum() == missing.sum()


def test_a_validation_volume_may_have_missing_places(floats, tmp_path, caplog):
    config = tiny_config(
        tmp_path, data={"train": [volume(floats)], "validation": volume(floats, "holed")}
    )
    assert run("train", config, "train.validate_every=4") == 0
    assert run("tune", config) == 0
    assert "holed/raw/s0: 3 voxels are NaN or infinite" in caplog.text


def test_values_outside_the_unit_range_are_refused_beside_missing_ones(floats, capsys):
    values = open_image(floats / "holed" / "raw").array[:]
    values[4, 4, 4] = 1.5
    write(floats, "outside", values)
    message = refusal(capsys, floats, f"{floats}/outside")
    assert "1.5; 0..1 is expected" in message and "predict.intensity_range" in message
