"""One driver at a time, and no worker without its driver: real processes, really killed."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from synpol.blockwise import lock as lock_module
from synpol.blockwise.lock import DriverLock, DriverWatch, write_heartbeat
from synpol.errors import InputError

DRIVER = """
import sys, time
from synpol.blockwise.lock import DriverLock
lock = DriverLock(sys.argv[1], "decoding of a.zarr")
print(lock.run, flush=True)
time.sleep(100)
"""

WORKER = """
import sys, time
from synpol.blockwise.lock import end_with_driver
end_with_driver(sys.argv[1], sys.argv[2])
print("works", flush=True)
time.sleep(100)
"""

FORKING_DRIVER = """
import os, sys, time
from synpol.blockwise.lock import DriverLock
lock = DriverLock(sys.argv[1], "training")
child = os.fork()
if child:
    print(child, flush=True)
time.sleep(100)
"""


@pytest.fixture
def start():
    """Start a script in a process of its own; returns the process and its first line."""
    running = []

    def started(script, *arguments):
        command = [sys.executable, "-c", script, *map(str, arguments)]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return running[-1], running[-1].stdout.readline().strip()

    yield started
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_second_driver_is_refused_with_the_name_of_the_first_however_often(tmp_path, start):
    driver, _ = start(DRIVER, tmp_path)
    for _ in range(2):
        with pytest.raises(InputError) as refusal:
            DriverLock(tmp_path, "evaluation")
        assert str(refusal.value).startswith(
            f"{tmp_path} is in use: decoding of a.zarr runs as pid {driver.pid} "
            f"on {socket.gethostname()} since {time.strftime('%Y-')}"
        )
        assert "wait for it or end it" in str(refusal.value)


def test_a_second_driver_in_the_same_process_is_refused_too(tmp_path):
    with (
        DriverLock(tmp_path, "training"),
        pytest.raises(InputError, match=f"training runs as pid {os.getpid()}"),
    ):
        DriverLock(tmp_path, "training")
    DriverLock(tmp_path, "training").release()


def test_folders_are_locked_each_for_itself(tmp_path):
    with DriverLock(tmp_path / "a" / "new", "training"), DriverLock(tmp_path / "b", "training"):
        assert (tmp_path / "a" / "new").is_dir()


def test_a_killed_driver_holds_nothing(tmp_path, start):
    driver, run = start(DRIVER, tmp_path)
    kill(driver)
    with DriverLock(tmp_path, "decoding") as lock:
        assert lock.run != run


@pytest.mark.parametrize("left", ["", "[1]"])
def test_a_driver_that_has_not_written_its_name_yet_is_there_all_the_same(tmp_path, left):
    path = tmp_path / "driver.lock"
    path.write_text(left)
    with open(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="in use: another driver runs as pid"):
            DriverLock(tmp_path, "training")


def test_what_an_earlier_driver_left_in_the_file_does_not_matter(tmp_path):
    (tmp_path / "driver.lock").write_text("{ half a na" * 1000)
    with DriverLock(tmp_path, "training") as lock:
        left = json.loads(lock.path.read_text())
        assert (left["run"], left["pid"]) == (lock.run, os.getpid())


def test_a_worker_that_looks_at_the_lock_does_not_keep_a_driver_out(tmp_path):
    DriverLock(tmp_path, "training").release()
    file = open(tmp_path / "driver.lock")  # noqa: SIM115 closed by the timer
    fcntl.flock(file, fcntl.LOCK_SH)
    timer = threading.Timer(0.3, file.close)
    timer.start()
    DriverLock(tmp_path, "training").release()
    timer.join()


def test_a_worker_works_while_its_driver_lives_and_ends_within_seconds_of_its_end(tmp_path, start):
    driver, run = start(DRIVER, tmp_path)
    worker, _ = start(WORKER, tmp_path, run)
    with pytest.raises(subprocess.TimeoutExpired):
        worker.wait(timeout=2.5)
    kill(driver)
    assert worker.wait(timeout=5) == 70


def test_a_worker_ends_when_a_new_driver_has_taken_over_the_lock(tmp_path, start):
    driver, run = start(DRIVER, tmp_path)
    worker, _ = start(WORKER, tmp_path, run)
    kill(driver)
    with DriverLock(tmp_path, "decoding") as lock:
        new, _ = start(WORKER, tmp_path, lock.run)
        assert worker.wait(timeout=5) == 70
        assert new.poll() is None


@pytest.mark.parametrize("gone", ["released", "removed"])
def test_a_worker_ends_when_the_lock_is_released_or_its_folder_removed(tmp_path, start, gone):
    with DriverLock(tmp_path, "decoding") as lock:
        worker, _ = start(WORKER, tmp_path, lock.run)
        if gone == "removed":
            lock.path.unlink()
            assert worker.wait(timeout=5) == 70
    assert worker.wait(timeout=5) == 70


def test_a_started_program_does_not_inherit_the_lock(tmp_path):
    with DriverLock(tmp_path, "decoding"):
        child = subprocess.Popen(["sleep", "100"], close_fds=False)
    try:
        DriverLock(tmp_path, "decoding").release()
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()


def test_a_forked_process_does_not_inherit_the_lock(tmp_path, start):
    driver, child = start(FORKING_DRIVER, tmp_path)
    try:
        with pytest.raises(InputError, match=f"pid {driver.pid}"):
            DriverLock(tmp_path, "training")
        kill(driver)
        os.kill(int(child), 0)  # it lives on
        DriverLock(tmp_path, "training").release()
    finally:
        os.kill(int(child), signal.SIGKILL)


def test_where_locks_are_not_carried_the_heartbeat_decides(tmp_path, monkeypatch):
    monkeypatch.setattr(lock_module, "SILENCE", 1.0)
    with DriverLock(tmp_path, "decoding") as lock:
        about = json.loads(lock.path.read_text())
        lock.path.write_text(json.dumps(about | {"host": "another"}))
        monkeypatch.setattr(lock_module, "_try_lock", lambda *_: True)  # never seen as held
        watch = DriverWatch(tmp_path, lock.run)
        for beat in range(4):
            write_heartbeat(tmp_path, beat)
            time.sleep(0.4)
            assert watch.lives()
        time.sleep(1.1)
        assert not watch.lives()
        lock.path.write_text(json.dumps(about))
        assert not DriverWatch(tmp_path, lock.run).lives()  # on its own machine a free lock is free


def test_where_locks_are_carried_a_free_one_is_a_dead_driver(tmp_path):
    lock = DriverLock(tmp_path, "decoding")
    about = json.loads(lock.path.read_text())
    lock.path.write_text(json.dumps(about | {"host": "another"}))
    watch = DriverWatch(tmp_path, lock.run)
    assert watch.lives()
    lock.release()
    assert not watch.lives()


def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock_module, "_try_lock", unsupported)
    with pytest.raises(InputError, match="on a file system without locks"):
        DriverLock(tmp_path, "decoding")
