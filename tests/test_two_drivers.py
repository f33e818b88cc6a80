"""Two drivers at once on one output: one writes, the other says why it does not."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from volumes import random_polarity, write_polarity

from synpol import InputError, decode_blockwise, polarity2instance
from synpol.blockwise.lock import OutputLock
from synpol.images.image import open_image

#: decodes with a work folder and options of its own, and waits in the first block that it writes
JOB = """
import sys, time
from pathlib import Path
from synpol import InputError, decode_blockwise
from synpol.decoding.relabel import RelabelStage

prediction, output, work, least, go = sys.argv[1:]
write = RelabelStage.write

def slowly(stage, *given):
    Path(work, "writes").touch()
    while not Path(go).exists():
        time.sleep(0.02)
    write(stage, *given)

RelabelStage.write = slowly
try:
    decode_blockwise(
        prediction, output, block_shape=(8, 20, 20), thres_small=int(least), work_dir=work
    )
except InputError as error:
    sys.exit(f"refused: {error}")
"""


def start(folder: Path, prediction: str, work: str, least: int, go: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", JOB, prediction, folder / "out", folder / work, least, go]
    return subprocess.Popen([str(c) for c in command], stderr=subprocess.PIPE, text=True)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_of_two_drivers_with_work_folders_of_their_own_one_writes(tmp_path):
    volume = random_polarity(0, (8, 40, 40), 2, 0.2, "uint8")
    prediction = write_polarity(tmp_path, volume)
    first = start(tmp_path, prediction, "w1", 4, tmp_path / "go")
    try:
        wait_for(tmp_path / "w1/writes", first)
        second = start(tmp_path, prediction, "w2", 1, tmp_path / "w2")
        _, said = second.communicate(timeout=60)
        assert second.returncode == 1
        assert f"refused: {tmp_path}/out is in use" in said
        (tmp_path / "go").touch()
        _, said = first.communicate(timeout=60)
        assert first.returncode == 0, said
    finally:
        first.kill()
        first.wait()
    found = open_image(tmp_path / "out/instances")
    assert found.array.attrs["synpol_complete"]
    assert np.array_equal(found.array[:], polarity2instance(volume, thres_small=4))
    assert not list((tmp_path / "out").rglob("*lock*"))
    other = decode_blockwise(  # the second one, when the first has ended
        prediction,
        tmp_path / "out",
        block_shape=(8, 20, 20),
        thres_small=1,
        work_dir=tmp_path / "w2",
    )
    assert np.array_equal(
        open_image(other.instances).array[:], polarity2instance(volume, thres_small=1)
    )


def test_the_lock_of_an_output_ends_with_its_driver(tmp_path):
    lock = f"OutputLock({str(tmp_path)!r})"
    code = (
        f"from synpol.blockwise.lock import OutputLock; {lock}; print('held', flush=True); input()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match="is in use"):
            OutputLock(tmp_path)
    finally:
        holder.kill()
        holder.wait()
    OutputLock(tmp_path).release()


def test_where_folders_cannot_be_locked_a_hidden_file_is(tmp_path, monkeypatch):
    import errno
    import fcntl
    import stat

    flock = fcntl.flock

    def of_nfs(descriptor: int, kind: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EBADF, "of a folder")
        flock(descriptor, kind)

    monkeypatch.setattr(fcntl, "flock", of_nfs)
    held = OutputLock(tmp_path)
    with pytest.raises(InputError, match="is in use: another run writes in it"):
        OutputLock(tmp_path)
    held.release()
    OutputLock(tmp_path).release()
