"""Rules of NFS, put over the calls of every Python process of a run.

Locks: the client of NFSv4 asks how a file was opened; a mount without a lock service refuses them.
Names: a file that is removed while it is open gets another one (``.nfs...``) until it is closed,
and until then its folder cannot be removed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from volumes import random_polarity, write_polarity

import synpol
from synpol.images.image import open_image

JOB = Path(__file__).with_name("fault_job.py")
#: imported by every Python process that finds it first on its path
RULE = """
import errno, fcntl, os

_flock, _lockf = fcntl.flock, fcntl.lockf


def _checked(lock, file, kind, *more):
    descriptor = file if isinstance(file, int) else file.fileno()
    mode = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
    shared, exclusive = kind & fcntl.LOCK_SH, kind & fcntl.LOCK_EX
    with open(os.environ["LOCKS_SEEN"], "a") as seen:
        name = os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))
        seen.write(f"{name} {'shared' if shared else 'exclusive' if exclusive else 'free'}\\n")
    if (shared and mode == os.O_WRONLY) or (exclusive and mode == os.O_RDONLY):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return lock(file, kind, *more)


fcntl.flock = lambda file, kind: _checked(_flock, file, kind)
fcntl.lockf = lambda file, kind, *more: _checked(_lockf, file, kind, *more)
"""
#: instead: a mount without locks
NO_LOCKS = """
import errno, fcntl, os


def _refused(*_):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


fcntl.flock = fcntl.lockf = _refused
"""
#: beside it: names of files that are removed while they are open
RENAMES = """
import itertools

_unlink, _number = os.unlink, itertools.count()


def _is_open(about):
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            if os.path.samestat(os.fstat(int(descriptor)), about):
                return True
        except OSError:
            pass
    return False


def _removed(path, *, dir_fd=None):
    about = os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
    if not _is_open(about):
        return _unlink(path, dir_fd=dir_fd)
    name = f".nfs{os.getpid():08x}{next(_number):08x}"
    with open(os.environ["LOCKS_SEEN"], "a") as seen:
        seen.write(f"{os.path.basename(path)} renamed\\n")
    new = os.path.join(os.path.dirname(path), name)
    os.rename(path, new, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)


os.unlink = os.remove = _removed
"""


def run_under(rules, folder, prediction, *options):
    """Decode in a process that knows some rules; returns how it ended, and what was noted."""
    (folder / "rule").mkdir(exist_ok=True)
    (folder / "rule" / "sitecustomize.py").write_text(rules)
    seen = folder / "seen"
    seen.touch()
    path = os.pathsep.join([str(folder / "rule"), *sys.path])
    done = subprocess.run(
        [sys.executable, str(JOB), prediction, str(folder / "result"), *options],
        env=os.environ | {"PYTHONPATH": path, "LOCKS_SEEN": str(seen)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done, Counter(seen.read_text().splitlines())


@pytest.mark.faults
def test_driver_and_workers_hold_their_locks_on_nfs4(tmp_path):
    volume = random_polarity(3, (24, 144, 144), 10, 0.05, "uint8")
    prediction = write_polarity(tmp_path, volume, (8, 48, 48))
    done, locks = run_under(RULE, tmp_path, prediction)
    assert done.returncode == 0, done.stderr
    assert locks["driver.lock exclusive"] and locks["workers.lock exclusive"]
    assert locks["driver.lock shared"] and locks["workers.lock shared"] >= 2  # a worker each
    found = open_image(tmp_path / "result" / "instances").array[:]
    assert np.array_equal(found, synpol.polarity2instance(volume, thres_small=20))


@pytest.mark.faults
def test_an_image_that_is_still_open_is_made_anew_when_it_is_closed(tmp_path):
    volume = random_polarity(3, (12, 72, 72), 4, 0.1, "uint8")
    prediction = write_polarity(tmp_path, volume, (6, 36, 36))
    options = ["num_workers=1", "block_shape=(12, 36, 36)"]
    command = [sys.executable, JOB, prediction, tmp_path / "result", *options, "thres_small=2"]
    subprocess.run(command, check=True)
    chunk = next(p for p in (tmp_path / "result/instances/s0/c").rglob("*") if p.is_file())
    held = f"_held = open({str(chunk)!r})\n"
    options.append("thres_small=4")
    done, seen = run_under(RULE + RENAMES + held, tmp_path, prediction, *options)
    assert done.returncode == 1 and seen[f"{chunk.name} renamed"] == 1
    assert "instances cannot be written: " in done.stderr and "end what reads it" in done.stderr
    for left in (tmp_path / "result").rglob(".nfs*"):  # as NFS does when they are closed
        left.unlink()
    done, _ = run_under(RULE + RENAMES, tmp_path, prediction, *options)
    assert done.returncode == 0, done.stderr
    found = open_image(tmp_path / "result" / "instances").array[:]
    assert np.array_equal(found, synpol.polarity2instance(volume, thres_small=4))
    assert not np.array_equal(found, synpol.polarity2instance(volume, thres_small=2))


@pytest.mark.faults
def test_a_mount_without_locks_is_refused(tmp_path):
    volume = random_polarity(3, (4, 20, 20), 5, 0.05, "uint8")
    prediction = write_polarity(tmp_path, volume, (4, 20, 20))
    done, _ = run_under(NO_LOCKS, tmp_path, prediction)
    assert done.returncode == 1 and "InputError" in done.stderr
    assert "is on a file system without locks (No locks available)" in done.stderr
    assert not list((tmp_path / "result").glob("instances"))
