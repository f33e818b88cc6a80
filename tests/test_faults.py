"""Real faults: what was finished is kept, the rerun completes, the bytes are the same."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from volumes import random_polarity, write_polarity

from synpol.blockwise.records import record_path
from synpol.images.image import open_image

pytestmark = pytest.mark.faults
JOB = Path(__file__).with_name("fault_job.py")
TRIALS = 200
SAMPLE = 6


def start(prediction: str, output: Path, *changes: str) -> subprocess.Popen:
    command = [sys.executable, str(JOB), prediction, str(output), *changes]
    with open(output.with_suffix(".log"), "a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def finish(prediction: str, output: Path, *changes: str) -> None:
    process = start(prediction, output, *changes)
    code = process.wait(timeout=120)
    assert code == 0, output.with_suffix(".log").read_text()[-3000:]


def digest(output: Path) -> str:
    """Hash of every file of the result, by name."""
    total = hashlib.sha256()
    for path in sorted(p for p in output.rglob("*") if p.is_file()):
        total.update(str(path.relative_to(output)).encode() + path.read_bytes())
    return total.hexdigest()


def workers_of(driver: int) -> list[int]:
    """Pids of the worker processes of a driver."""
    workers = []
    for entry in os.listdir("/proc"):
        pid = int(entry) if entry.isdigit() else 0
        if b"synpol.blockwise.worker" in command_of(pid) and parent_of(pid) == driver:
            workers.append(pid)
    return workers


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def first_workers_of(driver: int) -> list[int]:
    """Wait for the first workers of a driver."""
    deadline = time.monotonic() + 60
    while not (workers := workers_of(driver)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert workers
    return workers


def kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A prediction, and what an undisturbed run makes of it in how much time."""
    folder = tmp_path_factory.mktemp("faults")
    volume = random_polarity(1, (40, 288, 288), 10, 0.05, "uint8")
    prediction = write_polarity(folder, volume, (8, 48, 48))
    started = time.monotonic()
    finish(prediction, folder / "undisturbed")
    seconds = time.monotonic() - started
    return folder, prediction, digest(folder / "undisturbed"), seconds


def trial(job, number: int) -> tuple[str, bool]:
    """Kill something at some time, with the blocks in a random order, and compare.

    A driver that died is started again, with another order. Returns what was hit.
    """
    folder, prediction, expected, seconds = job
    rng = random.Random(number)
    output = folder / f"trial-{number}"
    what = rng.choice(["worker", "workers", "driver", "driver and workers", "driver twice"])
    process = start(prediction, output, f"order={number}")
    hit = False
    for _ in range(2 if what == "driver twice" else 1):
        time.sleep(rng.uniform(0.15, 1.0) * seconds)
        workers = workers_of(process.pid)
        running = process.poll() is None
        hit = hit or (running and bool(workers))
        if "driver" in what and running:
            kill(process.pid)
            process.wait()
        if what == "worker":
            workers = workers[:1]
        if "worker" in what:
            for pid in workers:
                kill(pid)
        if "driver" in what:
            process = start(prediction, output, f"order={number + 10_000}")
    code = process.wait(timeout=120)
    assert code == 0, f"{what}: {output.with_suffix('.log').read_text()[-3000:]}"
    assert digest(output) == expected, what
    shutil.rmtree(output)
    shutil.rmtree(f"{output}.work")
    return what, hit


def run_trials(job, numbers) -> None:
    with ThreadPoolExecutor(2) as pool:  # two at a time; each waits for processes most of the time
        results = list(pool.map(lambda number: trial(job, number), numbers))
    hits = sum(hit for _, hit in results)
    print(f"{hits} of {len(results)} trials hit a driver with running workers")
    assert hits > 0


def test_a_sample_of_random_kills(job):
    run_trials(job, range(SAMPLE))


@pytest.mark.slow
def test_random_kills(job):
    run_trials(job, range(TRIALS))


def test_a_block_that_raises_twice_is_done_at_the_third_attempt(job):
    folder, prediction, expected, _ = job
    output = folder / "flaky"
    attempts = folder / "attempts"
    attempts.mkdir()
    finish(prediction, output, f"flaky={str(attempts)!r}")
    assert len(list(attempts.iterdir())) == 2
    assert digest(output) == expected


def test_workers_end_within_seconds_of_their_driver(job):
    folder, prediction, _, _ = job
    output = folder / "orphans"
    process = start(prediction, output)
    workers = first_workers_of(process.pid)
    kill(process.pid)
    process.wait()
    gone_by = time.monotonic() + 8
    alive = workers
    while alive and time.monotonic() < gone_by:
        alive = [p for p in workers if Path(f"/proc/{p}").exists()]
        time.sleep(0.1)
    assert not alive


def test_a_paused_orphan_that_wakes_up_does_no_harm(job):
    folder, prediction, expected, _ = job
    output = folder / "paused"
    process = start(prediction, output)
    workers = first_workers_of(process.pid)
    time.sleep(0.3)
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    kill(process.pid)
    process.wait()
    again = start(prediction, output)
    time.sleep(1.5)
    for pid in workers:
        os.kill(pid, signal.SIGCONT)
    assert again.wait(timeout=120) == 0, output.with_suffix(".log").read_text()[-3000:]
    assert digest(output) == expected


def test_two_drivers_at_once_the_second_is_refused(job):
    folder, prediction, expected, _ = job
    output = folder / "two"
    first = start(prediction, output)
    lock = Path(f"{output}.work") / "driver.lock"
    deadline = time.monotonic() + 60
    while not lock.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.2)
    second = subprocess.run(
        [sys.executable, str(JOB), prediction, str(output)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert second.returncode != 0
    assert f"runs as pid {first.pid}" in second.stderr
    assert first.wait(timeout=120) == 0
    assert digest(output) == expected


def test_changed_options_between_runs(job):
    folder, prediction, expected, seconds = job
    output = folder / "changed"
    process = start(prediction, output, "thres_small=5")
    time.sleep(0.7 * seconds)
    kill(process.pid)
    process.wait()
    finish(prediction, output)
    assert digest(output) == expected


def test_what_a_killed_writer_had_begun_is_taken_away(job):
    folder, prediction, expected, seconds = job
    output = folder / "begun"
    process = start(prediction, output)
    time.sleep(0.5 * seconds)
    kill(process.pid)
    process.wait()
    array = output / "instances" / "s0"
    for place in ("c/0/0/3", "c/4/5/5", "zarr", "../zarr", "../../zarr"):  # as zarr names them
        begun = array / f"{place}.0123456789abcdef0123456789abcdef.partial"
        begun.parent.mkdir(parents=True, exist_ok=True)
        begun.write_bytes(b"half")
    for left in Path(f"{output}.work").glob("decode-*/relabel-*"):
        shutil.rmtree(left)  # so that every block is still to be written
    finish(prediction, output)
    assert digest(output) == expected


def test_a_full_disk_loses_nothing(job):
    if os.geteuid() != 0:
        pytest.skip("needs root: mounts a small file system")
    folder, prediction, expected, _ = job
    place = folder / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], check=True)
    try:
        output = place / "result"
        filler = place / "filler"
        filler.write_bytes(b"x" * 500_000)
        process = start(prediction, output)
        assert process.wait(timeout=120) != 0
        log = output.with_suffix(".log").read_text()
        assert "No space left on device" in log
        filler.unlink()
        subprocess.run(["mount", "-o", "remount,size=200m", str(place)], check=True)
        finish(prediction, output)
        assert digest(output) == expected
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize(
    ("stage", "reader"), [("label", "relabel-*"), ("dilate", "groups-4/merge-1")]
)
@pytest.mark.parametrize("content", [b"", b"garbage" * 100])
def test_garbage_in_place_of_a_record_is_made_anew(job, content, stage, reader):
    folder, prediction, expected, _ = job
    output = folder / f"garbage-{len(content)}-{stage}"
    finish(prediction, output)
    [work] = Path(f"{output}.work").glob("decode-*")
    z, y, x = np.argwhere(open_image(output / "instances").array[:])[0] // (8, 48, 48)
    record_path(work / stage, (z, y, x)).write_bytes(content)  # a block with something to relabel
    [made_from_it] = work.glob(reader)
    shutil.rmtree(made_from_it)
    process = start(prediction, output)
    assert process.wait(timeout=120) != 0
    assert "has been set aside" in output.with_suffix(".log").read_text()
    finish(prediction, output)
    assert digest(output) == expected


def test_the_undisturbed_run_is_what_memory_says(job):
    import synpol

    folder, prediction, _, _ = job
    volume = open_image(prediction).array[:]
    found = open_image(folder / "undisturbed" / "instances").array[:]
    assert np.array_equal(found, synpol.polarity2instance(volume, thres_small=20))
    assert len(np.unique(found)) > 100  # so that there is something to lose
