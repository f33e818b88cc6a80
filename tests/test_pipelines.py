"""The commands, end to end on a tiny volume, and what they say to bad input."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from recipes import ROOT, run, run_refused, tiny_config, tiny_volume, write

import synpol
from synpol.images.image import open_image
from synpol.model.trained import latest_checkpoint


@pytest.fixture
def tiny(tmp_path):
    tiny_volume(tmp_path / "data")
    return tmp_path


def weights(folder):
    path = latest_checkpoint(str(folder))
    state = torch.load(path, weights_only=True)
    return [state["model"][k] for k in state["model"]] + [state["ema"][k] for k in state["ema"]]


@pytest.mark.parametrize("exclusive", [False, True])
def test_the_whole_job(tiny, exclusive, capsys):
    config = tiny_config(tiny, exclusive=exclusive, train__iterations=40)
    assert run("train", config) == 0
    assert run("tune", config, "tune.thres=[0.4,0.5]") == 0
    tuned = tiny / "run" / "tuned.yaml"
    assert run("predict_blockwise", config, tuned) == 0
    protocols = ["evaluate.protocols=[lin2020,cremi-partners]", "evaluate.lin2020_margin=1"]
    protocols.append(f"evaluate.segmentation={tiny}/data/truth")
    assert run("evaluate", config, tuned, *protocols) == 0
    result = tiny / "result"
    assert open_image(result / "polarity").array.chunks == (3, 4, 16, 16)  # as a scene needs it
    polarity = open_image(result / "polarity", channels=3).array[:]
    instances = open_image(result / "instances", channels=0).array[:]
    thres = json.loads((tiny / "run" / "tune.json").read_text())[0]["thres"]
    assert thres == (0.5 if exclusive else 0.4)  # exclusive has no threshold to choose
    chosen = float(tuned.read_text().split("thres: ")[1].split()[0])
    expected = synpol.polarity2instance(polarity, thres=chosen, thres_small=4, exclusive=exclusive)
    assert np.array_equal(instances, expected)
    table = pd.read_parquet(result / "synapses.parquet")
    assert set(table.synapse_id) == set(np.unique((instances + 1) // 2)) - {0}
    scores = json.loads((result / "scores.json").read_text())
    assert set(scores["iou"]["0.5"]) == {"polarity_correct", "synapse", "pre", "post"}
    assert set(scores["protocols"]) == {"lin2020", "cremi-partners"}
    page = (result / "report.html").read_text()
    assert "data:image/png" in page
    links = page.replace("http://127.0.0.1:8642/at?", "")  # into the scene
    assert "127.0.0.1" in page and "http" not in links
    with open(tiny / "run" / "log.csv") as file:
        assert [int(r["iteration"]) for r in csv.DictReader(file)] == list(range(1, 41))


def test_tuning_that_finds_nothing_says_so_and_chooses_nothing(tiny, capsys):
    config = tiny_config(tiny)
    assert run("train", config) == 0
    given = (config, "decode.thres_small=100000", "decode.thres=0.35")
    assert run("tune", *given) == 0
    said = capsys.readouterr().err
    assert "nothing was chosen: the F1 is 0" in said and "data/truth" in said
    tuned = (tiny / "run" / "tuned.yaml").read_text()
    assert "nothing was chosen" in tuned and "thres: 0.35" in tuned


def test_a_resumed_run_ends_with_the_weights_of_one_that_was_not_interrupted(tiny):
    assert run("train", tiny_config(tiny, train__iterations=6, train__num_workers=1)) == 0
    whole = weights(tiny / "run")
    shutil.move(tiny / "run", tiny / "whole")
    for last in ("0000006.pt", "0000004.pt"):
        (tiny / "whole" / "checkpoints" / last).unlink()
    shutil.move(tiny / "whole", tiny / "run")
    assert run("train", tiny_config(tiny, train__iterations=6)) == 0
    assert all(torch.equal(a, b) for a, b in zip(whole, weights(tiny / "run"), strict=True))


def test_ctrl_c_saves_and_stops_and_the_run_goes_on(tiny):
    config = tiny_config(tiny, train__iterations=5000, train__num_workers=1)
    command = [sys.executable, str(ROOT / "pipelines" / "train.py"), str(config)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    log = tiny / "run" / "log.csv"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (log.exists() and log.read_text().count("\n") > 20):
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 130
    process.stderr.close()
    stopped = int(latest_checkpoint(str(tiny / "run")).stem)
    assert 20 <= stopped < 5000


def test_other_settings_do_not_resume_a_run(tiny, capsys):
    assert run("train", tiny_config(tiny)) == 0
    message = run_refused(capsys, "train", tiny_config(tiny), "train.lr=0.02")
    assert "was trained with train.lr = 0.01, the config now has 0.02" in message


def test_predictions_do_not_depend_on_blocks_and_resume(tiny):
    assert run("train", tiny_config(tiny)) == 0
    config = tiny_config(tiny, train__precision="float32")
    shutil.rmtree(tiny / "run")
    assert run("train", config) == 0
    found = []
    for block in ([8, 48, 48], [4, 16, 32], [8, 32, 16]):
        output = f"predict.output={tiny}/by{block[1]}{block[2]}"
        arguments = (config, output, f"predict.block_shape={block}", "--only", "predict")
        assert run("predict_blockwise", *arguments) == 0
        found.append(open_image(f"{output[15:]}/polarity").array[:].astype(int))
    assert np.abs(found[0] - found[1]).max() <= 1
    assert np.abs(found[0] - found[2]).max() <= 1
    assert found[0].max() > 0
    array = open_image(f"{tiny}/by3216/polarity", mode="r+").array
    records = sorted((tiny / "by3216.work").rglob("*.record"))
    first = array[:]
    array[:, :8, :32, :16] = 9
    records[0].unlink()
    assert run("predict_blockwise", *arguments) == 0
    assert np.array_equal(array[:], first)


def test_augmentations_are_drawn(tiny, capsys):
    config = tiny_config(tiny, augment={"elastic_p": 0.5, "misalign": 3, "misalign_p": 0.5})
    assert run("augmentations", config) == 0
    assert (tiny / "run" / "augmentations.png").stat().st_size > 10_000


def test_every_augmentation_is_learned_with(tiny):
    augment = {f"{name}_p": 0.5 for name in ("elastic", "misalign", "gamma", "noise", "blur")}
    augment |= {"missing_p": 0.5, "misalign": 3, "elastic_sigma": [0, 1, 1]}
    rejection = {"size_thres": 50, "p": 0.9, "after_augmentation": True}
    config = tiny_config(tiny, augment=augment, reject_sampling=rejection)
    assert run("train", config) == 0


def test_decoding_alone_needs_no_checkpoint(tiny):
    volume = np.zeros((3, 8, 20, 20), np.uint8)
    volume[0, :, 4:8, 4:8] = volume[1, :, 4:8, 9:14] = volume[2, :, 4:8, 4:14] = 255
    write(tiny / "result", "polarity", volume)
    assert run("predict_blockwise", tiny_config(tiny), "--only", "decode") == 0
    found = open_image(tiny / "result" / "instances").array[:]
    assert np.array_equal(found, synpol.polarity2instance(volume, thres_small=4))
    assert found.max() == 2


def test_fresh_does_all_of_it_again(tiny):
    volume = np.zeros((3, 8, 20, 20), np.uint8)
    volume[:, :, 4:8, 4:8] = 255
    write(tiny / "result", "polarity", volume)
    config = tiny_config(tiny)
    assert run("predict_blockwise", config, "--only", "decode") == 0
    polarity = open_image(tiny / "result" / "polarity", mode="r+").array
    polarity[:] = volume[..., ::-1]  # rewritten in place by someone else
    expected = synpol.polarity2instance(volume[..., ::-1], thres_small=4)
    records = list((tiny / "result.work").rglob("*.record"))
    for fresh in ([], ["--fresh"]):  # the change is noticed; then nothing has changed
        made = {path: path.stat().st_mtime_ns for path in records}
        assert run("predict_blockwise", config, "--only", "decode", *fresh) == 0
        assert np.array_equal(open_image(tiny / "result" / "instances").array[:], expected)
        assert made and all(path.stat().st_mtime_ns > made[path] for path in records)


def test_an_output_that_decoding_cannot_write_is_refused_before_anything_is_predicted(tiny, capsys):
    assert run("train", tiny_config(tiny)) == 0
    write(tiny / "result", "instances", np.zeros((8, 48, 48), np.uint64))
    before = tree(tiny)
    message = run_refused(capsys, "predict_blockwise", tiny_config(tiny))
    assert "chunks of (8, 16, 16) voxels, which do not fit blocks of (4, 20, 30)" in message
    assert tree(tiny) == before


def union_truth(tiny):
    truth = open_image(tiny / "data" / "truth").array[:]
    write(tiny / "mask", "truth", (truth > 0).astype(np.uint8) * 255)
    return [{"raw": f"{tiny}/data/raw", "truth": f"{tiny}/mask/truth", "labels": "union"}]


def test_labels_without_sides_train_and_score(tiny):
    data = {"train": union_truth(tiny)}
    evaluate = {"truth": f"{tiny}/mask/truth", "labels": "union"}
    decode = {"sides": False, "thres_small": 4, "block_shape": [8, 20, 20]}
    config = tiny_config(tiny, data=data, evaluate=evaluate, decode=decode)
    for name in ("train", "predict_blockwise", "evaluate"):
        assert run(name, config) == 0
    scores = json.loads((tiny / "result" / "scores.json").read_text())
    assert set(scores["iou"]["0.5"]) == {"synapse"}


def tree(folder):
    return sorted(str(p) for p in folder.rglob("*"))


def corrupt(tiny, what):
    """Break one thing of the tiny job; returns the command, its arguments, words to expect."""
    data = tiny / "data"
    good = {"raw": f"{data}/raw", "truth": f"{data}/truth", "labels": "polarity"}
    if what == "missing file":
        return ("train", {"data__train": [good | {"raw": f"{data}/rew"}]}, ["rew", "raw"])
    if what == "other shape":
        write(tiny / "o", "truth", np.ones((8, 40, 56), np.uint8))
        return ("train", {"data__train": [good | {"truth": f"{tiny}/o/truth"}]}, ["(8, 40, 56)"])
    if what == "other voxel size":
        truth = open_image(data / "truth").array[:]
        write(tiny / "o", "truth", truth, voxel_size=(40, 16, 16))
        expected = ["voxel size", "(40, 16, 16)", "(30, 16, 16)"]
        return ("train", {"data__train": [good | {"truth": f"{tiny}/o/truth"}]}, expected)
    if what == "a mask as polarity":
        truth = open_image(data / "truth").array[:]
        write(tiny / "o", "truth", (truth > 0).astype(np.uint8))
        return ("train", {"data__train": [good | {"truth": f"{tiny}/o/truth"}]}, ["labels: union"])
    if what == "float outside 0..1":
        write(tiny / "o", "raw", open_image(data / "raw").array[:].astype(np.float32))
        words = ["0..1", "data.intensity_range"]
        return ("train", {"data__train": [good | {"raw": f"{tiny}/o/raw"}]}, words)
    if what == "float prediction input":
        write(tiny / "o", "raw", open_image(data / "raw").array[:].astype(np.float32))
        return ("predict_blockwise", {"predict__raw": f"{tiny}/o/raw"}, ["data.intensity_range"])
    if what == "patch too large":
        return ("train", {"train__patch": [9, 16, 16]}, ["train.patch", "(8, 48, 48)"])
    if what == "unwritable":
        return (
            "train",
            {"run_dir": "/proc/nowhere/run"},
            ["/proc/nowhere/run", "cannot be written"],
        )
    if what == "no checkpoint":
        return ("predict_blockwise", {"run_dir": f"{tiny}/none"}, ["train first"])
    if what == "unknown key":
        return ("train", {"train__itertions": 3}, ["train.itertions", "train.iterations"])
    raise AssertionError(what)


@pytest.mark.parametrize(
    "what",
    [
        "missing file",
        "other shape",
        "other voxel size",
        "a mask as polarity",
        "float outside 0..1",
        "float prediction input",
        "patch too large",
        "unwritable",
        "no checkpoint",
        "unknown key",
    ],
)
def test_bad_input_is_named_and_nothing_is_written(tiny, capsys, what):
    if what == "float prediction input":
        assert run("train", tiny_config(tiny)) == 0
    command, changes, words = corrupt(tiny, what)
    config = tiny_config(tiny, **changes)
    before = tree(tiny)
    message = run_refused(capsys, command, config)
    assert message.startswith("error: ")
    assert all(word in message for word in words), message
    assert tree(tiny) == before


def test_a_full_disk_is_named(tiny, capsys):
    small = tiny / "small"
    small.mkdir()
    if os.geteuid() != 0:
        pytest.skip("needs root: mounts a small file system")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(small)], check=True)
    try:
        message = run_refused(capsys, "train", tiny_config(tiny, run_dir=f"{small}/run"))
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert "cannot be written: No space left on device" in message


def test_a_checkpoint_of_another_network_is_refused(tiny, capsys):
    assert run("train", tiny_config(tiny)) == 0
    message = run_refused(capsys, "predict_blockwise", tiny_config(tiny, model__filters=[4, 8]))
    assert "another network: it has model.filters = [4, 6], the config has [4, 8]" in message
    (tiny / "x.pt").write_bytes(b"not a checkpoint")
    bad = f"predict.checkpoint={tiny}/x.pt"
    assert "x.pt is not a readable checkpoint" in run_refused(
        capsys, "predict_blockwise", tiny_config(tiny), bad
    )


def test_import_errors_name_the_nearest_key_and_the_wrong_size(tiny, capsys):
    with h5py.File(tiny / "im.h5", "w") as file:
        file["main"] = np.zeros((4, 8, 8), np.uint8)
    entry = {"source": f"{tiny}/im.h5", "output": f"{tiny}/new/raw", "voxel_size": [50, 46, 46]}
    for change, words in (
        ({"key": "mian"}, "'main'"),
        ({"key": "main", "voxel_size": [50, 0, 4.6]}, "must be above zero"),
    ):
        config = tiny_config(tiny, prepare={"imports": [entry | change]})
        assert words in run_refused(capsys, "prepare", config)
        assert not (tiny / "new").exists()


def test_help_lists_every_key(capsys):
    for name in ("prepare", "train", "tune", "predict_blockwise", "evaluate", "demo"):
        assert run(name, "--help") == 0
        text = capsys.readouterr().out
        for key in ("reject_sampling.size_thres", "decode.thres_small", "loss.side_contrast"):
            assert key in text


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_the_whole_job_on_a_gpu(tiny):
    config = tiny_config(tiny, device="cuda")
    for name in ("train", "predict_blockwise", "evaluate"):
        assert run(name, config) == 0
