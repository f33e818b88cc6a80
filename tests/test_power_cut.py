"""After a power cut at any moment, a rerun makes the same result or says clearly why not."""

from __future__ import annotations

import csv
import io
import random
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from power_cut import Disk, record
from recipes import run, tiny_config, tiny_volume, write

import synpol
from synpol.images.image import open_image

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="no strace")

#: commands of a kind of trial, each (name, options after the config)
KINDS = {
    "decode": [("predict_blockwise", "--only", "decode")],
    "chain": [
        ("predict_blockwise", "--only", "decode"),
        ("connect",),
        ("view", "--prepare"),
        ("table", "--csv", "FOLDER/result/a.csv"),
        ("table", "--sqlite", "FOLDER/result/a.db"),
    ],
    "connect": [("connect",)],
    "levels": [("view", "--prepare")],
    "table": [
        ("table", "--csv", "FOLDER/result/a.csv"),
        ("table", "--sqlite", "FOLDER/result/a.db"),
    ],
    "train": [("train",)],
    "predict": [("predict_blockwise", "--only", "predict")],
}
#: commands that have ended before, all of it synced
BEFORE = {"connect": "decode", "levels": "decode", "table": "decode", "predict": "train"}


def commands(kind, config):
    """The commands of a kind with their arguments."""
    folder = str(config.parent)
    return [(n, config, *(o.replace("FOLDER", folder) for o in more)) for n, *more in KINDS[kind]]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Give the recording of a kind, made once, and the config."""
    found = {}

    def give(kind):
        if kind not in found:
            folder = tmp_path_factory.mktemp(kind) / "made"
            tiny_volume(folder / "data", (8, 48, 48))
            truth = open_image(folder / "data" / "truth").array[:]
            neurons = np.broadcast_to(1 + np.arange(48, dtype=np.uint64) // 12, truth.shape)
            write(folder / "data", "neurons", neurons)
            config = tiny_config(
                folder,
                connect={"segmentation": f"{folder}/data/neurons"},
                view={"port": 0},
                predict__block_shape=[8, 48, 48],
                decode__block_shape=[8, 24, 48],
            )
            if kind not in ("train", "predict"):
                polarity = (255 * synpol.seg_to_polarity(truth)).astype(np.uint8)
                write(folder / "result", "polarity", polarity)
            for name, *arguments in commands(BEFORE[kind], config) if kind in BEFORE else ():
                assert run(name, *arguments) == 0
            recording = record(folder, *commands(kind, config))
            really = Disk()
            really.load(folder)
            assert recording.whole().contents() == really.contents(), "the recording misses changes"
            found[kind] = (recording, config)
        return found[kind]

    return give


def left_over(path):
    """Whether a file is no part of a result: work folders, logs, what was set aside."""
    parts = path.split("/")
    return (
        "result.work" in parts
        or any(p.endswith((".tmp", ".damaged")) or "tfevents" in p for p in parts)
        or parts[-1] in ("timings.csv", "job.json", "status.json", "driver.lock")
    )


def differences(expected, found):
    """Paths of a result that are not the same."""
    return [
        path
        for path in sorted({p for p in expected | found if not left_over(p)})
        if not alike(path, expected.get(path), found.get(path))
    ]


def alike(path, one, other):
    """Whether two files hold the same; tensors of a checkpoint count, times of a log do not."""
    if one is None or other is None:
        return False
    if path.endswith("log.csv"):
        return without_times(one) == without_times(other)
    if path.endswith(".pt") and one != other:
        return equal(*(torch.load(io.BytesIO(c), weights_only=True) for c in (one, other)))
    return one == other


def without_times(log):
    """Rows of a log of training without their times."""
    rows = csv.DictReader(io.StringIO(log.decode()))
    return [{k: v for k, v in row.items() if k not in ("waited", "seconds")} for row in rows]


def equal(one, other):
    """Whether two trees of tensors are equal; times of training are not compared."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def rerun(kind, config, capsys, which=slice(None)):
    """Run the commands; returns the exit code of the first that fails, or 0."""
    for name, *arguments in commands(kind, config)[which]:
        capsys.readouterr()
        code = run(name, *arguments)  # a traceback ends the test
        said = capsys.readouterr().err
        assert "Traceback" not in said, said
        if code:
            assert code in (1, 2) and len(said.strip()) > 20, said
            return code, said
    return 0, ""


def cut_and_rerun(recorded, kind, seeds, capsys):
    """Cut the power once a seed; returns how often each outcome was."""
    recording, config = recorded(kind)
    expected = recording.whole().contents()
    alone = without_partners(recording, config) if kind == "chain" else {}
    outcomes = Counter()
    for seed in seeds:
        disk = recording.cut(random.Random(seed))
        disk.write(recording.folder)
        if kind == "chain" and seed % 2:  # only the last commands, on what lies there
            some = slice(1 + seed // 2 % 4, None)
            connected = some.start == 1 or "result/partners.parquet" in disk.contents()
            code, said = rerun(kind, config, capsys, some)
            outcomes["refused" if code else "read"] += 1
            found = differences(expected if connected else alone, now(recording.folder))
            made = {1: "connectivity", 2: "annotations", 3: "a.", 4: "a.db"}[some.start]
            if not code:
                wrong = [p for p in found if made in p]
                assert not wrong, (seed, wrong)
            continue
        errors, (code, said) = 0, rerun(kind, config, capsys)
        while code and errors < 8:  # each sets aside what is damaged
            errors, (code, said) = errors + 1, rerun(kind, config, capsys)
        assert code == 0, (seed, said)
        outcomes["the same after an error" if errors else "the same"] += 1
        assert not (wrong := differences(expected, now(recording.folder))), (seed, wrong)
    return outcomes


def without_partners(recording, config):
    """What the last commands make of a result whose partners nobody has looked up."""
    recording.whole().write(recording.folder)
    result = recording.folder / "result"
    shutil.rmtree(result / "synapses.annotations")
    for name in ("connectivity", "links", "partners", "parts", "a."):
        for path in result.glob(f"{name}*"):
            path.unlink()
    for name, *arguments in commands("chain", config)[2:]:
        assert run(name, *arguments) == 0
    return now(recording.folder)


def now(folder):
    """What lies in a folder."""
    disk = Disk()
    disk.load(folder)
    return disk.contents()


#: (kind, power cuts in every run of the tests, power cuts in all)
TRIALS = [
    ("decode", 8, 150),
    ("chain", 0, 120),
    ("connect", 4, 60),
    ("levels", 0, 60),
    ("table", 0, 30),
    ("predict", 0, 50),
    ("train", 2, 40),
]


@pytest.mark.parametrize("kind,some", [(k, some) for k, some, _ in TRIALS if some])
def test_a_rerun_after_a_power_cut_makes_the_same(recorded, capsys, kind, some):
    assert cut_and_rerun(recorded, kind, range(some), capsys).total() == some


@pytest.mark.slow
@pytest.mark.parametrize("kind,many", [(k, many) for k, _, many in TRIALS])
def test_a_rerun_after_hundreds_of_power_cuts_makes_the_same(recorded, capsys, kind, many):
    outcomes = cut_and_rerun(recorded, kind, range(1000, 1000 + many), capsys)
    with capsys.disabled():
        print(f"{kind}: {dict(outcomes)}")
    assert outcomes.total() == many
