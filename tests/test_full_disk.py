"""A disk that gets full: one sentence, nothing half-made counts, a rerun completes."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from finished import finish
from recipes import run, tiny_config, tiny_volume

pytestmark = pytest.mark.faults
#: kB that are left when a command begins
ROOMS = (12, 40, 200)


@pytest.fixture
def small(tmp_path) -> Iterator[Path]:
    """A file system of 64 MB."""
    if os.geteuid() != 0:
        pytest.skip("needs root: mounts a small file system")
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path, kilobytes: int) -> Path:
    """Fill a file system but for some kB; returns the file to remove."""
    filler, state = place / "filler", os.statvfs(place)
    size = state.f_bavail * state.f_bsize - kilobytes * 1024
    with open(filler, "wb") as file:
        for _ in range(size // 4096):
            file.write(bytes(4096))
    return filler


def digest(*paths: Path) -> str:
    """Hash of files, and of all files in folders."""
    total = hashlib.sha256()
    for path in paths:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            total.update(str(file.relative_to(path.parent)).encode() + file.read_bytes())
    return total.hexdigest()


#: what each command writes, in the folder of the result
MADE = {
    ("predict_blockwise", "--only", "decode"): ("instances", "synapses.parquet"),
    ("connect",): ("partners.parquet", "connectivity.parquet", "connectivity.graphml"),
    ("evaluate",): ("scores.json",),
    ("view", "--prepare"): ("synapses.annotations",),
    ("table", "--csv", "a"): ("a",),
    ("table", "--cave", "a"): ("a",),
    ("table", "--synful", "a"): ("a",),
    ("table", "--parts", "a"): ("a",),
    ("table", "--sqlite", "a"): ("a-meta.json",),
}


def run_in_little_room(capsys, small, room, command, *arguments) -> bool:
    """Run a command on a nearly full disk; returns whether it failed, which it says in a line."""
    filler = fill(small, room)
    capsys.readouterr()
    try:
        code = run(command, *arguments)
    finally:
        filler.unlink()
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    if not code:
        return False
    assert code in (1, 2) and len(said) == 1, (code, said)
    assert any(word in said[0] for word in ("No space left", "disk", "make room")), said
    return True


@pytest.mark.parametrize("command", MADE, ids=" ".join)
def test_a_command_whose_disk_gets_full_says_so_and_completes_in_a_rerun(small, capsys, command):
    config = finish(small)
    result = small / "result"
    arguments = [str(result / a) if a == "a" else a for a in command]
    if "decode" in command:  # all of it is to be written
        shutil.rmtree(small / "result.work")
        shutil.rmtree(result / "instances")
        (result / "synapses.parquet").unlink()
    failed = [
        run_in_little_room(capsys, small, room, command[0], config, *arguments[1:])
        for room in (0, *ROOMS)
    ]
    assert failed[0]
    left = [p for p in result.rglob("*.tmp") if p.name != "driver.tmp"]
    assert left == [], left
    assert run(command[0], config, *arguments[1:]) == 0
    made = [result / name for name in MADE[command]]
    found = digest(*made)
    for path in made:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(small / "result.work")
    assert run(command[0], config, *arguments[1:]) == 0
    assert digest(*made) == found


def test_training_and_what_follows_complete_after_a_full_disk(small, capsys):
    tiny_volume(small / "data")
    config = tiny_config(small, train__validate_every=2)
    commands = [
        ("train",),
        ("tune",),
        ("predict_blockwise", "--only", "predict"),
        ("augmentations",),
    ]
    failures = 0
    for command, *arguments in commands:
        for room in (0, *ROOMS):
            failures += run_in_little_room(capsys, small, room, command, config, *arguments)
        assert run(command, config, *arguments) == 0
    assert failures >= 4


def test_imports_complete_after_a_full_disk(small, capsys):
    values = np.random.default_rng(0).integers(0, 255, (20, 128, 128)).astype(np.uint8)
    with h5py.File(small / "a.h5", "w") as file:
        file["main"] = values
    source = {"source": f"{small}/a.h5", "output": f"{small}/raw", "voxel_size": [30, 8, 8]}
    config = small / "config.yaml"
    config.write_text(
        yaml.safe_dump(
            {"run_dir": f"{small}/run", "prepare": {"imports": [{**source, "key": "main"}]}}
        )
    )
    failed = [run_in_little_room(capsys, small, room, "prepare", config) for room in (0, *ROOMS)]
    assert all(failed)
    assert run("prepare", config) == 0


def test_unpacking_completes_after_a_full_disk(small, capsys):
    from test_em_r50 import archive

    (small / "jwr15_synapse.zip").write_bytes(archive())
    with zipfile.ZipFile(small / "jwr15_synapse.zip") as file:
        needed = sum(member.file_size for member in file.infolist())
    options = {"archive": f"{small}/jwr15_synapse.zip", "output": f"{small}/em"}
    config = small / "config.yaml"
    prepare = {"em_r50": {**options, "voxel_size": [30, 8, 8]}}
    config.write_text(yaml.safe_dump({"run_dir": f"{small}/run", "prepare": prepare}))
    failures = 0
    for room in (0, 8, needed // 1024, needed // 1024 + 8):
        failures += run_in_little_room(capsys, small, room, "prepare_em_r50", config)
        assert not (small / "em" / "unpacked.tmp").exists()
    assert failures >= 2
    assert run("prepare_em_r50", config) == 0
