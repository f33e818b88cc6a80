"""The rule of NFSv4 for locks, put over the kernel's: its client asks how a file was opened."""

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


@pytest.mark.faults
def test_driver_and_workers_hold_their_locks_on_nfs4(tmp_path):
    volume = random_polarity(3, (24, 144, 144), 10, 0.05, "uint8")
    prediction = write_polarity(tmp_path, volume, (8, 48, 48))
    (tmp_path / "rule").mkdir()
    (tmp_path / "rule" / "sitecustomize.py").write_text(RULE)
    seen = tmp_path / "seen"
    path = os.pathsep.join([str(tmp_path / "rule"), *sys.path])
    environment = os.environ | {"PYTHONPATH": path, "LOCKS_SEEN": str(seen)}
    done = subprocess.run(
        [sys.executable, str(JOB), prediction, str(tmp_path / "result")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    locks = Counter(seen.read_text().splitlines())
    assert locks["driver.lock exclusive"] and locks["workers.lock exclusive"]
    assert locks["driver.lock shared"] and locks["workers.lock shared"] >= 2  # a worker each
    found = open_image(tmp_path / "result" / "instances").array[:]
    assert np.array_equal(found, synpol.polarity2instance(volume, thres_small=20))
