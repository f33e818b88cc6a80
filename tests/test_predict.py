"""Prediction through the command: parts, masks, flips, status, dry run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from recipes import ROOT, run, run_refused, tiny_config, tiny_volume, write
from test_faults import command_of

from synpol.blockwise import driver
from synpol.config import load_config
from synpol.errors import InputError
from synpol.images.image import open_image
from synpol.prediction.job import PredictJob
from synpol.prediction.network import flips_of, probabilities_of
from synpol.prediction.stage import sample_mask

PRECISE = {"train__precision": "float32"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny volume and a network for it."""
    folder = tmp_path_factory.mktemp("trained")
    tiny_volume(folder / "data")
    assert run("train", tiny_config(folder, **PRECISE)) == 0
    return folder


def predicted(folder, *changes):
    shutil.rmtree(folder / "out", ignore_errors=True)
    shutil.rmtree(folder / "out.work", ignore_errors=True)
    config = tiny_config(folder, **PRECISE)
    output = f"predict.output={folder}/out"
    assert run("predict_blockwise", config, output, "--only", "predict", *changes) == 0
    return open_image(folder / "out" / "polarity")


def test_a_roi_is_a_cutout_of_the_whole_and_knows_where_it_lies(trained):
    whole = predicted(trained).array[:].astype(int)
    roi = "predict.roi={offset: [60, 160, 320], shape: [120, 480, 320]}"
    part = predicted(trained, roi)
    assert tuple(part.offset) == (60, 160, 320)
    expected = whole[:, 2:6, 10:40, 20:40]
    assert part.array.shape == expected.shape
    assert np.abs(part.array[:] - expected).max() <= 1


@pytest.mark.parametrize(
    ("roi", "said"),
    [
        ("{offset: [0, 0, 8], shape: [30, 16, 16]}", "does not lie on whole voxels along x"),
        ("{offset: [0, 0, 0], shape: [30, 16, 25]}", "does not lie on whole voxels along x"),
        ("{offset: [0, 0, 0], shape: [270, 16, 16]}", "reaches beyond"),
        ("{offset: [-30, 0, 0], shape: [60, 16, 16]}", "reaches beyond"),
    ],
)
def test_a_roi_that_cannot_be_meant_is_refused(trained, capsys, roi, said):
    config = tiny_config(trained, **PRECISE)
    assert said in run_refused(capsys, "predict_blockwise", config, f"predict.roi={roi}")


def test_a_mask_of_any_voxel_size_limits_the_work(trained):
    whole = predicted(trained).array[:]
    mask = np.zeros((4, 6, 6), np.uint8)
    mask[1:3, 1:3, 2:5] = 1
    write(trained, "mask", mask, voxel_size=(60, 128, 128))
    part = predicted(trained, f"predict.mask={trained}/mask").array[:]
    inside = np.zeros(whole.shape[1:], bool)
    inside[2:6, 8:24, 16:40] = True
    assert np.array_equal(part, whole * inside)
    shutil.rmtree(trained / "mask")


def test_masks_are_sampled_at_the_centres_of_voxels(tmp_path):
    rng = np.random.default_rng(0)
    write(tmp_path, "raw", np.zeros((6, 9, 9), np.uint8), voxel_size=(40, 6, 6), offset=(0, 7, 0))
    mask = rng.integers(0, 2, (3, 4, 5)).astype(np.uint8)
    write(tmp_path, "mask", mask, voxel_size=(60, 10, 10), offset=(-20, 5, 3))
    raw, there = open_image(tmp_path / "raw"), open_image(tmp_path / "mask")
    found = sample_mask(there, raw, (1, 2, 0), (6, 9, 8))
    for voxel in np.ndindex(found.shape):
        world = (np.add(voxel, (1, 2, 0)) + 0.5) * (40, 6, 6) + (0, 7, 0)
        place = np.floor((world - (-20, 5, 3)) / (60, 10, 10)).astype(int)
        inside = (place >= 0).all() and (place < mask.shape).all()
        assert found[voxel] == (bool(mask[tuple(place)]) if inside else False)


def test_flipped_copies_are_averaged(tmp_path):
    path = tiny_config(tmp_path, **PRECISE, predict__flip_axes=[["y"], ["x", "z"], ["y"], []])
    flips = flips_of(load_config([str(path)]).predict.flip_axes)
    assert flips == [("y",), ("z", "x")]
    every = load_config([str(path), "predict.flip_axes=all"]).predict.flip_axes
    assert len(flips_of(every)) == 7
    torch.manual_seed(0)
    model = torch.nn.Conv3d(1, 3, 3, padding=1)
    windows = torch.rand(2, 1, 4, 8, 8)
    with torch.inference_mode():
        network = probabilities_of(
            model, torch.device("cpu"), precision="float32", exclusive=False, flips=flips
        )
        found = network(windows)
        plain = model(windows).sigmoid()
        y = model(windows.flip(3)).sigmoid().flip(3)
        zx = model(windows.flip((2, 4))).sigmoid().flip((2, 4))
    assert torch.allclose(found, (plain + y + zx) / 3, atol=1e-6)


@pytest.mark.parametrize("change", ["predict.flip_axes=all", "predict.blending=crop"])
def test_options_that_change_the_result_redo_it(trained, change):
    first = predicted(trained).array[:]
    config = tiny_config(trained, **PRECISE)
    arguments = (config, f"predict.output={trained}/out", "--only", "predict", change)
    assert run("predict_blockwise", *arguments) == 0
    assert not np.array_equal(open_image(trained / "out" / "polarity").array[:], first)


def test_the_status_is_there_for_other_programs(trained):
    predicted(trained)
    status = json.loads((trained / "out.work" / "status.json").read_text())
    assert status["state"] == "done"
    assert [stage["name"] for stage in status["stages"]] == ["predict"]
    assert status["stages"][0]["blocks"] == 4
    assert status["error"] is None


def test_a_dry_run_tells_stages_and_jobs_and_leaves_nothing(trained, capsys):
    config = tiny_config(trained, **PRECISE)
    capsys.readouterr()
    arguments = (f"predict.output={trained}/dry", "--dry-run", "workers.executor=slurm")
    assert run("predict_blockwise", config, *arguments, "workers.queue=gpu") == 0
    told = capsys.readouterr().out
    rows = [line.split() for line in told.splitlines()]
    assert ["predict", "4", "18.4", "kB", "55.3", "kB", "1", "workers"] in [r[:8] for r in rows]
    assert any(row[:2] == ["relabel", "12"] for row in rows)
    assert '#SBATCH --partition="gpu"' in told
    assert "-m synpol.blockwise.worker" in told
    assert not (trained / "dry").exists()
    assert not (trained / "dry.work").exists()


def test_ctrl_c_ends_workers_and_keeps_what_is_done(trained, tmp_path):
    """The signal that a terminal sends goes to the driver and to its workers."""
    shutil.copytree(trained / "data", tmp_path / "data")
    config = tiny_config(
        tmp_path,
        **PRECISE,
        workers={"num_predict_workers": 2},
        predict__checkpoint=str(next((trained / "run" / "checkpoints").glob("*.pt"))),
        predict__block_shape=[4, 16, 16],
        predict__flip_axes="all",
        predict__overlap=0.9,
    )
    code = (
        "import sys, runpy; import synpol.blockwise.driver as driver; driver.DRIVER_VOXELS = 0; "
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-c", code, str(ROOT / "pipelines" / "predict_blockwise.py")]
    process = subprocess.Popen(
        [*command, str(config), "--only", "predict"],
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    work = tmp_path / "result.work"
    deadline = time.monotonic() + 90
    while not list(work.rglob("*.record")) and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and str(work).encode() in command_of(int(entry.name))
    ]
    assert len(workers) >= 2
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert "interrupted; run the same command again to go on" in process.stderr.read()
    done = len(list(work.rglob("*.record")))
    assert done > 0
    assert json.loads((work / "status.json").read_text())["state"] == "interrupted"
    assert not any(str(work).encode() in command_of(pid) for pid in workers)


def test_workers_predict_what_the_driver_does(trained, monkeypatch):
    alone = predicted(trained).array[:]
    monkeypatch.setattr(driver, "DRIVER_VOXELS", 0)
    shared = predicted(trained, "workers.num_predict_workers=2", "workers.cpus=1").array[:]
    assert (trained / "out.work" / "logs" / "synpol-0.err").exists()
    assert np.abs(alone.astype(int) - shared).max() <= 1


def test_a_part_is_decoded_and_done_again_and_another_part_is_refused(trained, capsys):
    shutil.rmtree(trained / "out", ignore_errors=True)
    shutil.rmtree(trained / "out.work", ignore_errors=True)
    config = tiny_config(trained, **PRECISE)
    output = f"predict.output={trained}/out"
    roi = "predict.roi={offset: [60, 160, 320], shape: [120, 480, 320]}"
    for _ in range(2):
        assert run("predict_blockwise", config, output, roi) == 0
    assert open_image(trained / "out" / "instances").array.shape == (4, 30, 20)
    before = open_image(trained / "out" / "polarity").array[:]
    message = run_refused(capsys, "predict_blockwise", config, output)
    assert "exists with the shape (4, 30, 20)" in message
    assert np.array_equal(open_image(trained / "out" / "polarity").array[:], before)
    assert run("tune", config, roi) == 0
    assert run("evaluate", config, output, roi) == 0
    truth = open_image(trained / "data" / "truth").array[2:6, 10:40, 20:40]
    scores = json.loads((trained / "out" / "scores.json").read_text())["iou"]["0.5"]
    assert scores["synapse"]["truth"] == len(set(np.unique((truth + 1) // 2)) - {0}) > 0


def test_another_region_does_not_replace_a_prediction_unless_told_so(trained, tmp_path, capsys):
    config, output = tiny_config(trained, **PRECISE), tmp_path / "out"
    places = ([60, 160, 320], [60, 160, 0])
    rois = [f"predict.roi={{offset: {place}, shape: [120, 480, 320]}}" for place in places]
    given = (config, f"predict.output={output}")
    assert run("predict_blockwise", *given, rois[0]) == 0
    before = open_image(output / "polarity").array[:]
    message = run_refused(capsys, "predict_blockwise", *given, rois[1], "--only", "predict")
    for words in ("offset [60, 160, 320], shape [120, 480, 320] nm", "offset [60, 160, 0]"):
        assert words in message
    assert "another predict.output" in message and "--fresh" in message
    assert np.array_equal(open_image(output / "polarity").array[:], before)
    larger = "predict.roi={offset: [60, 160, 0], shape: [180, 480, 320]}"
    for roi in (rois[1], larger):
        assert run("predict_blockwise", *given, roi, "--fresh") == 0
        assert open_image(output / "instances").offset == (60, 160, 0)
    assert open_image(output / "instances").array.shape == (6, 30, 20)


def test_chunks_are_made_to_fit_a_block_unless_they_are_given(trained, tmp_path, capsys):
    content = yaml.safe_load(tiny_config(trained, **PRECISE).read_text())
    content["predict"] |= {"block_shape": [8, 24, 36], "output": f"{tmp_path}/out"}
    del content["predict"]["chunk_shape"]
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    assert run("predict_blockwise", path, "--only", "predict") == 0
    assert open_image(tmp_path / "out" / "polarity").array.shards == (3, 8, 24, 36)
    chunks = "predict.chunk_shape=[8, 16, 36]"
    message = run_refused(capsys, "predict_blockwise", path, chunks)
    assert "(8, 24, 36) is not a multiple of predict.chunk_shape (8, 16, 36)" in message
    assert run("evaluate", path, chunks) == 2  # there are no instances; chunks are not its concern
    assert "chunk_shape" not in capsys.readouterr().err


def test_a_checkpoint_that_is_replaced_meanwhile_is_refused(trained, tmp_path):
    config = load_config([str(tiny_config(trained, **PRECISE)), f"predict.output={tmp_path}/out"])
    checkpoints = sorted((trained / "run" / "checkpoints").glob("0*.pt"))
    named = tmp_path / "best.pt"
    shutil.copy(checkpoints[0], named)
    job = PredictJob.of(config, config.predict.raw, config.predict.output, named)
    shutil.copy(checkpoints[-1], named)
    with pytest.raises(InputError, match="was replaced while it is predicted with"):
        job.run()
    assert not open_image(f"{tmp_path}/out/polarity").array.attrs["synpol_complete"]


def test_records_of_earlier_predictions_are_removed(trained):
    config = tiny_config(trained, **PRECISE)
    checkpoints = sorted((trained / "run" / "checkpoints").glob("0*.pt"))
    for checkpoint in checkpoints[:2]:
        for output in ("one", "two"):
            where = f"predict.output={trained}/{output}", f"predict.checkpoint={checkpoint}"
            shared = f"workers.work_dir={trained}/shared"
            assert run("predict_blockwise", config, *where, shared, "--only", "predict") == 0
    assert len(list((trained / "shared").glob("predict-*"))) == 2  # of each output the last


def test_a_mask_beside_the_image_is_refused(trained, capsys):
    write(trained, "far", np.ones((2, 2, 2), np.uint8), offset=(0, 0, 16 * 48))
    config = tiny_config(trained, **PRECISE)
    message = run_refused(capsys, "predict_blockwise", config, f"predict.mask={trained}/far")
    assert "lies beside what is predicted: along x it covers 768..800 nm" in message


def test_what_computes_next_in_this_process_finds_its_number_of_threads(trained):
    before = torch.get_num_threads()
    torch.set_num_threads(5)
    try:
        predicted(trained)
        assert torch.get_num_threads() == 5
    finally:
        torch.set_num_threads(before)
