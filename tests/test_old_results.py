"""A result that older code made is taken as it is: nothing of it is computed again."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from recipes import ROOT

from synpol.blockwise.records import read_arrays

KEPT = Path(__file__).parent / "data" / "made_by_c70f7d3"
#: where it was made: hashes hold the path
MADE_IN = Path("/tmp/synpol-made-by-c70f7d3")
#: files that tell of the last run, not of the result
OF_THE_RUN = {"status.json", "driver.lock", "workers.lock", "driver.times", "timings.csv"}


@pytest.fixture
def made() -> Iterator[Path]:
    """The old result, in the place where it was made."""
    with open("/tmp/synpol-made-by-c70f7d3.lock", "w") as lock:  # one test run at a time
        fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(MADE_IN, ignore_errors=True)
        shutil.copytree(KEPT, MADE_IN)
        yield MADE_IN
        shutil.rmtree(MADE_IN)


def run(folder: Path, name: str, *arguments: str) -> None:
    command = [sys.executable, str(ROOT / "pipelines" / f"{name}.py"), "config.yaml", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def files_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of change of every file of the result."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in OF_THE_RUN
    }


def changed(before: dict[str, tuple[bytes, int]], after: dict[str, tuple[bytes, int]]) -> set[str]:
    return {name for name in before if after.get(name) != before[name]}


def test_nothing_of_an_old_result_is_computed_again(made: Path) -> None:
    before = files_of(made)
    for name in ("prepare", "train", "predict_blockwise"):
        run(made, name)
    run(made, "view", "--prepare")
    after = files_of(made)
    rewritten = {"result/zarr.json", "result/synapses.parquet"}  # the table, of the same records
    touched = changed(before, after)
    assert {name for name in touched if after[name][0] != before[name][0]} == set()
    assert touched <= rewritten | {n for n in before if n.endswith(("zarr.json", "job.json"))}
    assert {name for name in after if name.endswith(".record")} == {
        name for name in before if name.endswith(".record")
    }


def test_an_old_result_is_finished_from_its_records(made: Path) -> None:
    before = files_of(made)
    decoding = next(made.glob("result.work/decode-*"))
    for gone in ("merge-1", "number", "resolve-1"):
        shutil.rmtree(decoding / gone)
    for gone in [*decoding.glob("relabel-*/0/*/*"), *decoding.glob("dilate/1/*/0.record")]:
        gone.unlink()
    shutil.rmtree(made / "result" / "instances" / "s0" / "c" / "0")
    (made / "result" / "synapses.parquet").unlink()
    run(made, "predict_blockwise", "--only", "decode")
    after = files_of(made)
    kept = {n for n in before if n.startswith("result/instances/s0/c/") or n.endswith(".parquet")}
    assert kept
    assert {name for name in kept if after[name][0] != before[name][0]} == set()
    redone = {n for n in changed(before, after) if n.endswith(".record")}
    assert all("/label/" not in name and "/predict-" not in name for name in redone)


def test_scores_and_partners_of_an_old_result_come_out_the_same(made: Path) -> None:
    before = files_of(made)
    run(made, "evaluate")
    run(made, "connect")
    after = files_of(made)
    for name in ("scores.json", "partners.parquet", "connectivity.parquet"):
        assert after[f"result/{name}"][0] == before[f"result/{name}"][0]


def test_the_records_of_a_decoding_hold_what_they_held(made: Path) -> None:
    [old] = made.glob("result.work/decode-*")
    kept = {str(path): arrays_of(path) for path in old.rglob("*.record")}
    run(made, "predict_blockwise", "--only", "decode", "--fresh")
    # groups have got a folder of their own; here there is one group, of 2x2x2 blocks and of 4x4x4
    now = {str(path).replace("/groups-4/", "/"): path for path in old.rglob("*.record")}
    assert now.keys() == kept.keys()  # the hash, so the folder, is the same
    for path, arrays in kept.items():
        found = arrays_of(now[path])
        # records of array blocks have learned to say how large the files of the block are
        assert found.keys() - {"sizes"} == arrays.keys(), path
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype, (path, name)
            np.testing.assert_array_equal(found[name], array, err_msg=f"{path} {name}")


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    z, y, x = path.parts[-3], path.parts[-2], path.stem
    return read_arrays(path.parents[2], (int(z), int(y), int(x)))
