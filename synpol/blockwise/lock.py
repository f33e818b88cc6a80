"""Keep two drivers apart: a work folder is locked by the driver's own open file.

The lock is the kernel's (flock), so it is gone when the driver is gone, however it ended; no stale
file ever has to be removed by hand. Workers do not inherit it (the file is closed on exec and after
a fork), so the death of a driver frees it although workers live on for a moment. They see that the
lock is free, or held under the name of another run, and stop.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Any, Self

from synpol.errors import InputError


class DriverLock:
    """Hold a folder for this process until the process ends or `release` is called.

    Parameters
    ----------
    folder : path
        Folder, local or shared; made when it is missing.
    what : str
        What this driver does, for the message that a second driver gets.

    Attributes
    ----------
    run : str
        Name of this run, unlike that of every other run.

    Raises
    ------
    InputError
        Another driver holds the folder; the message names its host, pid and start.
    """

    def __init__(self, folder: str | os.PathLike[str], what: str) -> None:
        self.path = Path(folder) / "driver.lock"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.run = uuid.uuid4().hex
        self._file = open(self.path, "a+", encoding="utf8")  # noqa: SIM115 held open on purpose
        os.register_at_fork(after_in_child=self._file.close)
        deadline = time.monotonic() + 1.0  # a worker may hold it for an instant to look
        while not self._locked():
            if time.monotonic() > deadline:
                holder = _read(self.path)
                self._file.close()
                raise InputError(
                    f"{folder} is in use: {holder.get('what', 'another driver')} runs as pid "
                    f"{holder.get('pid', '?')} on {holder.get('host', '?')} since "
                    f"{holder.get('since', '?')}; wait for it or end it, then run this again"
                )
            time.sleep(0.05)
        self._file.seek(0)
        self._file.truncate()
        me = {
            "run": self.run,
            "what": what,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        self._file.write(json.dumps(me))
        self._file.flush()

    def _locked(self) -> bool:
        try:
            return _try_lock(self._file.fileno(), fcntl.LOCK_EX)
        except OSError as error:
            self._file.close()
            raise InputError(
                f"{self.path.parent} is on a file system without locks ({error.strerror}), so two "
                "runs could not be kept apart; give a work_dir on another one"
            ) from None

    def release(self) -> None:
        """Let go of the folder."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


#: name of the file that stands for a folder which cannot be locked itself
HIDDEN_LOCK = ".driver.lock"


class OutputLock:
    """Keep drivers with other work folders out of a local output until `release` is called.

    The folder itself is locked, so that no file is left in a result. NFS locks files only; there it
    is a hidden file in the folder.

    Parameters
    ----------
    folder : path
        Folder that the driver writes in; made when it is missing.

    Raises
    ------
    InputError
        Another driver writes in the folder.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise InputError(f"{folder} is a file; a folder to write in is expected") from None
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            free = _try_lock(descriptor, fcntl.LOCK_EX)
        except OSError:
            os.close(descriptor)
            descriptor = os.open(Path(folder) / HIDDEN_LOCK, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                free = _try_lock(descriptor, fcntl.LOCK_EX)
            except OSError:  # a file system without locks
                free = True
        if not free:
            os.close(descriptor)
            raise InputError(
                f"{folder} is in use: another run writes in it, with another work folder; wait "
                "for it or end it, then run this again, with the same work_dir as that run"
            )
        self._descriptor = descriptor
        os.register_at_fork(after_in_child=self.release)

    def release(self) -> None:
        """Let go of the folder."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


#: seconds without a heartbeat after which a driver counts as gone
SILENCE = 30.0


class DriverWatch:
    """See from a worker whether its driver lives.

    On the driver's machine the kernel's lock says so at once. On another machine it does so where
    this worker has seen the lock held before: there the file system carries locks from machine to
    machine. Not all file systems do; on those the driver's heartbeat decides, which has to change
    within `SILENCE`.

    Parameters
    ----------
    folder : path
        Folder that the driver has locked.
    run : str
        `DriverLock.run` of the driver.
    """

    def __init__(self, folder: str | os.PathLike[str], run: str) -> None:
        self.folder, self.run = Path(folder), run
        self._locks_are_carried = False
        self._beat: str | None = None
        self._since = time.monotonic()

    def lives(self) -> bool:
        """Tell whether the driver lives."""
        path = self.folder / "driver.lock"
        try:
            holder = _read(path)
            with open(path, encoding="utf8") as file:
                free = _try_lock(file.fileno(), fcntl.LOCK_SH)
        except FileNotFoundError:
            return False
        except OSError:
            return self._heart_beats()  # the file system is away for a moment
        if holder.get("run", self.run) != self.run:
            return False
        self._locks_are_carried |= not free
        if free and (self._locks_are_carried or holder.get("host") == socket.gethostname()):
            return False
        return not free or self._heart_beats()

    def _heart_beats(self) -> bool:
        try:
            beat = (self.folder / "driver.beat").read_text()
        except OSError:
            beat = None
        if beat is not None and beat != self._beat:
            self._beat, self._since = beat, time.monotonic()
        return time.monotonic() - self._since < SILENCE


def end_with_driver(folder: str | os.PathLike[str], run: str) -> None:
    """End this worker process within seconds of its driver's end; see `DriverWatch`."""
    watch = DriverWatch(folder, run)

    def look() -> None:
        while watch.lives():
            time.sleep(1)
        os._exit(70)

    threading.Thread(target=look, daemon=True).start()


def write_heartbeat(folder: str | os.PathLike[str], count: int) -> None:
    """Show workers that their driver lives.

    Parameters
    ----------
    folder : path
        Folder that the driver has locked.
    count : int
        Another number each time; workers see that it changes.
    """
    with contextlib.suppress(OSError):  # a full disk is no reason to count as gone
        (Path(folder) / "driver.beat").write_text(str(count))


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(path: Path) -> dict[str, Any]:
    try:
        holder = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return holder if isinstance(holder, dict) else {}
