"""Training: validation beside it, what a kill leaves, and several processes."""

import csv
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import zarr
from recipes import ROOT, run, run_refused, tiny_config, tiny_volume, write

from synpol import InputError
from synpol.config import ImageSource, Train, load_config
from synpol.images.labels import open_labels
from synpol.model.trained import best_checkpoint, find_checkpoint, latest_checkpoint
from synpol.training.data_state import _state, check_same_data
from synpol.training.optimizer import learning_rate_factor
from synpol.training.validation import Validated, Validation, read_validation, validates_at


@pytest.fixture
def tiny(tmp_path):
    tiny_volume(tmp_path / "data")
    return tmp_path


def state_of(path):
    state = torch.load(path, weights_only=True)
    return [*state["model"].values(), *state["ema"].values()]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def losses(run_dir):
    with open(run_dir / "log.csv", newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def start(config, *arguments, command=(), **options):
    """Train in a process of its own."""
    script = [*(command or [sys.executable]), str(ROOT / "pipelines" / "train.py")]
    return subprocess.Popen(
        [*script, str(config), *arguments], stderr=subprocess.PIPE, text=True, **options
    )


def test_validation_scores_as_the_commands_do_and_disturbs_nothing(tiny):
    assert run("train", tiny_config(tiny, train__iterations=6)) == 0
    alone = state_of(latest_checkpoint(str(tiny / "run")))
    shutil.rmtree(tiny / "run")
    config = tiny_config(tiny, train__iterations=6, train__validate_every=2)
    assert run("train", config) == 0
    assert same(alone, state_of(latest_checkpoint(str(tiny / "run"))))
    rows = read_validation(tiny / "run" / "validation.csv")
    assert [row.iteration for row in rows] == [2, 4, 6]
    for row in rows:
        checkpoint = f"predict.checkpoint={tiny}/run/checkpoints/{row.iteration:07d}.pt"
        assert run("predict_blockwise", config, checkpoint) == 0
        assert run("evaluate", config, checkpoint) == 0
        scores = json.loads((tiny / "result" / "scores.json").read_text())["iou"]["0.5"]
        assert scores["polarity_correct"]["f1"] == row.f1
        assert scores["polarity_correct"]["predicted"] == row.predicted


def test_a_run_goes_on_for_longer_and_its_learning_rate_follows(tiny, capsys, caplog):
    assert run("train", tiny_config(tiny)) == 0
    assert run("train", tiny_config(tiny), "train.iterations=8") == 0
    assert "trained at iteration 8" in capsys.readouterr().out
    assert "goes on towards 8: the learning rate follows the longer cosine" in caplog.text
    with open(tiny / "run" / "log.csv", newline="") as file:
        rates = [float(row["lr"]) for row in csv.DictReader(file)]
    factors = [learning_rate_factor(Train(lr=0.01, iterations=n)) for n in (4, 8)]
    expected = [0.01 * factors[i >= 4](i) for i in range(8)]
    assert np.allclose(rates, expected, rtol=1e-5)
    message = run_refused(capsys, "train", tiny_config(tiny), "train.iterations=6")
    assert "train.iterations = 8, the config now has 6; a run may be lengthened, not" in message
    message = run_refused(capsys, "train", tiny_config(tiny, train__iterations=9), "train.lr=0.02")
    assert "train.lr = 0.01" in message


def without_hash(folder, names=("raw", "truth")):
    """Make the images those of another program, which have no hash of synpol's."""
    for name in names:
        attributes = zarr.open_array(f"{folder}/{name}/s0", mode="r+").attrs
        for key in [k for k in attributes if k.startswith("synpol")]:
            del attributes[key]


@pytest.mark.parametrize("foreign", [False, True])
def test_data_that_moved_is_the_same_and_data_that_changed_is_not(tiny, capsys, foreign):
    if foreign:
        without_hash(tiny / "data")
    else:
        for name in ("raw", "truth"):
            attributes = {"synpol_hash": "1" * 64, "synpol_complete": True}
            zarr.open_array(f"{tiny}/data/{name}/s0", mode="r+").attrs.update(attributes)
    assert run("train", tiny_config(tiny)) == 0
    (tiny / "data").rename(tiny / "elsewhere")
    moved = {"raw": f"{tiny}/elsewhere/raw", "truth": f"{tiny}/elsewhere/truth"}
    config = tiny_config(tiny, data={"train": [moved | {"labels": "polarity"}]})
    assert run("train", config, "train.iterations=6") == 0
    array = zarr.open_array(f"{tiny}/elsewhere/raw/s0", mode="r+")
    if foreign:
        array[:] = 255 - array[:]
    else:
        array.attrs["synpol_hash"] = "2" * 64
    message = run_refused(capsys, "train", config, "train.iterations=6")
    assert "has been made anew or changed since" in message and "elsewhere/raw" in message


def test_a_mask_of_what_is_known_may_move_too(tmp_path):
    def state(folder):
        source = ImageSource(path=f"{folder}/truth", known=f"{folder}/known")
        return [_state(open_labels(source, "polarity", marked=True))]

    write(tmp_path / "a", "truth", np.ones((4, 8, 8), np.uint64))
    write(tmp_path / "a", "known", np.ones((4, 8, 8), np.uint8))
    without_hash(tmp_path / "a", ("truth", "known"))
    before = state(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    check_same_data(tmp_path / "x.pt", before, now := state(tmp_path / "b"))
    old = [
        before[0] | {"known": {k: v for k, v in before[0]["known"].items() if k[:6] != "finger"}}
    ]
    with pytest.raises(InputError, match="Move the data back"):
        check_same_data(tmp_path / "x.pt", old, now)
    zarr.open_array(f"{tmp_path}/b/known/s0", mode="r+")[0, 0, 0] = 0
    for other in (state(tmp_path / "b"), [now[0] | {"known": ["a"]}], [now[0] | {"read_as": 1}]):
        with pytest.raises(InputError, match="made anew or changed"):
            check_same_data(tmp_path / "x.pt", before, other)


def test_data_that_moved_is_named_where_an_old_checkpoint_cannot_tell(tiny, capsys):
    without_hash(tiny / "data")
    assert run("train", tiny_config(tiny)) == 0
    newest = latest_checkpoint(str(tiny / "run"))
    state = torch.load(newest, weights_only=True)
    for image in state["data_state"]:
        del image["fingerprint"]
    del state["digest"]  # which older checkpoints do not have
    torch.save(state, newest)
    assert run("train", tiny_config(tiny)) == 0
    (tiny / "data").rename(tiny / "elsewhere")
    moved = {"raw": f"{tiny}/elsewhere/raw", "truth": f"{tiny}/elsewhere/truth"}
    config = tiny_config(tiny, data={"train": [moved | {"labels": "polarity"}]})
    message = run_refused(capsys, "train", config)
    assert "data/raw" in message and "Move the data back" in message and "changed" not in message


@pytest.mark.parametrize("offset", [(0, 0, 0), (-15, -8, -8), (301, 7, 15)])
def test_a_patch_may_be_as_large_as_the_volume_wherever_that_lies(tmp_path, offset):
    rng = np.random.default_rng(0)
    truth = np.zeros((4, 16, 16), np.uint64)
    truth[:, 4:8, 4:8], truth[:, 4:8, 8:12] = 1, 2
    raw = rng.integers(0, 255, truth.shape).astype(np.uint8)
    for name, values in (("raw", raw), ("truth", truth)):
        write(tmp_path / "data", name, values, offset=offset)
    assert run("train", tiny_config(tmp_path)) == 0


def test_the_best_checkpoint_is_kept_and_predicted_with(tiny):
    config = tiny_config(
        tiny,
        train__iterations=60,
        train__validate_every=10,
        train__checkpoint_every=7,
        tune={"iou": 0.1},
    )
    # sides take longer to learn than a test can wait: every side is to be found as a thing
    sides = "data.validation.labels=union"
    assert run("train", config, sides) == 0
    rows = read_validation(tiny / "run" / "validation.csv")
    best = max(rows, key=lambda row: row.f1)
    assert best.f1 > 0  # otherwise this test would say nothing
    kept = torch.load(best_checkpoint(str(tiny / "run")), weights_only=True)
    equal = [row.iteration for row in rows if row.f1 == best.f1]
    assert kept["iteration"] == equal[-1]
    assert find_checkpoint(load_config([str(config), sides])) == best_checkpoint(str(tiny / "run"))
    never = load_config([str(config), "train.validate_every=0"])
    assert find_checkpoint(never) == latest_checkpoint(str(tiny / "run"))


def rows_of(*f1, settings="a"):
    return [Validated(10 * n, f, 0.5, 0.5, 1, 2, 3, settings) for n, f in enumerate(f1, start=1)]


@pytest.mark.parametrize(
    ("f1", "best", "stops"),
    [
        ([], None, False),
        ([0, 0, 0, 0, 0], None, False),  # sides are still tied: that is no reason to end
        ([0, 0, 0.1], 30, False),
        ([0, 0.1, 0.1, 0.05], 30, True),  # of equals the last is kept, patience began at the first
        ([0.3, 0.2, 0.4, 0.1], 30, False),
        ([0.3, 0.2, 0.1], 10, True),
    ],
)
def test_the_best_row_and_when_to_stop(tiny, f1, best, stops):
    config = tiny_config(tiny, train__validate_every=10, train__patience=2)
    validation = Validation(load_config([str(config)]))
    validation.rows = rows_of(*f1)
    assert (validation.best and validation.best.iteration) == best
    assert validation.stops == stops


def test_training_stops_where_validation_brings_nothing_better(tiny, capsys):
    config = tiny_config(
        tiny,
        train__iterations=50,
        train__validate_every=2,
        train__patience=2,
        train__lr=1e-9,
        train__lr_min=0,
        tune={"iou": 0.01},
        decode={"thres": 0.1, "thres_small": 0, "block_shape": [8, 48, 48]},
    )
    # an untrained network says "synapse" everywhere, which meets every side a little
    whole = "data.validation.labels=union"
    assert run("train", config, whole) == 0
    rows = read_validation(tiny / "run" / "validation.csv")
    assert [row.iteration for row in rows] == [2, 4, 6]
    assert len({row.f1 for row in rows}) == 1 and rows[0].f1 > 0
    best = torch.load(best_checkpoint(str(tiny / "run")), weights_only=True)
    assert best["iteration"] == 6
    before = state_of(latest_checkpoint(str(tiny / "run")))
    capsys.readouterr()
    assert run("train", config, whole) == 0
    assert "trained at iteration 6" in capsys.readouterr().out
    assert same(before, state_of(latest_checkpoint(str(tiny / "run"))))
    assert run("train", config, "train.patience=0", "train.validate_every=0") == 0
    assert len(losses(tiny / "run")) == 50


def test_a_validation_that_was_cut_off_is_made_up_for(tiny):
    config = tiny_config(tiny, train__iterations=4, train__validate_every=2)
    assert run("train", config) == 0
    table = tiny / "run" / "validation.csv"
    whole = table.read_bytes()
    table.write_bytes(b"\n".join(whole.splitlines()[:2]) + b"\n")
    assert run("train", config) == 0
    assert [row.iteration for row in read_validation(table)] == [2, 4]
    assert table.read_bytes().splitlines() == whole.splitlines()


def written(tiny, rows):
    """A run with checkpoints of iterations 0, 2 and 4, and these validations."""
    config = tiny_config(tiny, train__validate_every=100, train__checkpoint_every=2)
    if not (tiny / "run").exists():
        assert run("train", config) == 0
    validation = Validation(load_config([str(config)]), 100)
    validation.rows = [dataclasses.replace(r, settings=validation.settings) for r in rows]
    validation._write()
    return load_config([str(config)])


def best_iteration(tiny):
    path = best_checkpoint(str(tiny / "run"))
    return torch.load(path, weights_only=True)["iteration"] if path.exists() else None


def test_the_best_checkpoint_is_that_of_the_best_row(tiny, caplog):
    two, four = (dataclasses.replace(rows_of(0.5)[0], iteration=i) for i in (2, 4))
    config = written(tiny, [two])
    best = best_checkpoint(str(tiny / "run"))
    best.unlink(missing_ok=True)
    Validation(config, 4)
    assert best_iteration(tiny) == 2  # it was killed before it could be kept
    written(tiny, [two, dataclasses.replace(four, f1=0.9)])
    Validation(config, 4)
    assert best_iteration(tiny) == 4
    assert [r.iteration for r in Validation(config, 2).rows] == [2]
    assert best_iteration(tiny) == 2  # the run goes on from there
    lost = dataclasses.replace(four, iteration=3)
    written(tiny, [lost])
    assert Validation(config, 4).rows == [] and best_iteration(tiny) is None
    assert "validation begins anew" in caplog.text


@pytest.mark.parametrize(
    "change",
    ["tune.iou=0.3", "decode.thres=0.4", "evaluate.min_size=3", "predict.overlap=0.25"],
)
def test_scores_of_other_settings_are_not_compared(tiny, change):
    config = written(tiny, [dataclasses.replace(rows_of(0.5)[0], iteration=2)])
    assert len(Validation(config, 4).rows) == 1
    path = str(tiny / "config.yaml")
    assert Validation(load_config([path, change]), 4).rows == []


def test_validation_is_due_at_its_iterations_and_at_the_end():
    train = Train(iterations=25, validate_every=10)
    assert [i for i in range(26) if validates_at(train, i)] == [10, 20, 25]
    assert not any(validates_at(Train(iterations=25), i) for i in range(26))


def test_validation_needs_a_volume(tiny, capsys):
    data = {"raw": f"{tiny}/data/raw", "truth": f"{tiny}/data/truth", "labels": "polarity"}
    config = tiny_config(tiny, train__validate_every=2, data={"train": [data]})
    assert "data.validation" in run_refused(capsys, "train", config)
    assert "patience" in run_refused(
        capsys, "train", tiny_config(tiny, train__patience=2, train__validate_every=0)
    )


def test_rows_of_a_validation_read_back(tmp_path):
    assert read_validation(tmp_path / "none.csv") == []
    (tmp_path / "a.csv").write_text(
        "iteration,f1,precision,recall,matched,predicted,truth,settings\n"
        "10,0.5,0.25,1.0,3,12,3,ab\n"
    )
    assert read_validation(tmp_path / "a.csv") == [Validated(10, 0.5, 0.25, 1.0, 3, 12, 3, "ab")]


def test_a_killed_run_ends_with_the_weights_of_one_that_was_not_killed(tiny):
    settings = {"iterations": 60, "checkpoint_every": 5, "num_workers": 1, "validate_every": 20}
    settings = {f"train__{key}": value for key, value in settings.items()}
    config = tiny_config(tiny, **settings)
    assert run("train", config) == 0
    whole = state_of(latest_checkpoint(str(tiny / "run")))
    shutil.move(tiny / "run", tiny / "whole")
    after = random.Random(5)
    kills, log = 0, tiny / "run" / "log.csv"
    while kills < 3:
        process = start(config, start_new_session=True)
        enough = after.randint(1, 18) + (len(losses(tiny / "run")) if log.exists() else 0)
        deadline = time.monotonic() + 100
        while process.poll() is None and time.monotonic() < deadline:
            if log.exists() and len(log.read_text().splitlines()) > enough:
                os.killpg(process.pid, signal.SIGKILL)
            time.sleep(0.01)
        kills += process.wait(timeout=100) == -signal.SIGKILL
        process.stderr.close()
        if process.returncode == 0:
            break
    assert kills
    print(f"killed {kills} times, the last time with {len(losses(tiny / 'run'))} iterations")
    assert run("train", config) == 0
    assert same(whole, state_of(latest_checkpoint(str(tiny / "run"))))
    assert losses(tiny / "run") == losses(tiny / "whole")
    assert [r.iteration for r in read_validation(tiny / "run" / "validation.csv")] == [20, 40, 60]


def test_sigterm_saves_and_stops(tiny):
    config = tiny_config(tiny, train__iterations=5000, train__num_workers=1)
    process = start(config)
    log = tiny / "run" / "log.csv"
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and not (log.exists() and log.read_text().count("\n") > 20):
        time.sleep(0.1)
    process.terminate()
    assert process.wait(timeout=60) == 130
    process.stderr.close()
    assert 20 <= int(latest_checkpoint(str(tiny / "run")).stem) < 5000


def torchrun(count):
    """Processes that see each other on the loopback of a network of their own."""
    return [
        *("unshare", "--net", "--map-root-user", "sh", "-c", 'ip link set lo up && exec "$@"'),
        *("sh", sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count)),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"),
    ]


TOGETHER = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("norm", ["none", "instance"])
def test_a_network_of_many_channels_trains_without_batch_norm(tiny, norm):
    settings = {"model": {"filters": [4, 36], "norm": norm}, "loss": {"deep_supervision": 1}}
    assert run("train", tiny_config(tiny, **settings, train__lr=1e-4)) == 0


@pytest.mark.parametrize("exclusive", [False, True])
def test_two_processes_learn_what_one_learns_from_the_whole_batch(tiny, exclusive):
    settings = {
        "exclusive": exclusive,
        "model": {"filters": [4, 6], "norm": "group"},
        "loss": {"deep_supervision": 0.5},
        "train__batch_size": 4,
        "train__iterations": 12,
        "train__validate_every": 6,
        "train__precision": "float32",
        "train__lr": 0.003,
    }
    config = tiny_config(tiny, **settings)
    assert run("train", config) == 0
    shutil.move(tiny / "run", tiny / "one")
    process = start(config, command=torchrun(2), env=TOGETHER)
    _, told = process.communicate(timeout=200)
    assert process.returncode == 0, told
    one, two = losses(tiny / "one"), losses(tiny / "run")
    assert len(two) == 12
    assert np.allclose(one, two, rtol=2e-3)
    assert abs(one[-1] - one[0]) > 0.05  # something was learned, and the same
    for a, b in zip(
        state_of(tiny / "one/checkpoints/0000012.pt"),
        state_of(tiny / "run/checkpoints/0000012.pt"),
        strict=True,
    ):
        assert torch.allclose(a.float(), b.float(), atol=2e-3)
    rows = [read_validation(tiny / name / "validation.csv") for name in ("one", "run")]
    assert [r.iteration for r in rows[1]] == [6, 12]


def test_processes_that_cannot_share_a_batch_are_refused(tiny):
    for more, why in (
        ("train.batch_size=3", "train.batch_size is 3, which 2 processes cannot share evenly"),
        ("model.norm=batch", "model.norm is batch"),
    ):
        process = start(tiny_config(tiny), more, command=torchrun(2), env=TOGETHER)
        _, told = process.communicate(timeout=100)
        assert process.returncode
        assert why in told
