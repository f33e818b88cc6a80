"""See that reading hostile input runs nothing, writes nowhere else, and takes little memory."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: what Python says before it runs a program, or loads code from what it reads
_RUNS = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "pickle.find_class",
)
_CHANGES = (
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
#: megabytes that reading all of some damaged input may add to this process
MEMORY = 500

_allowed: list[Path] = []
_seen: list[str] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _allowed:
        return
    if event.startswith(_RUNS):
        _seen.append(f"{event} {arguments!r:.300}")
    elif event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        if arguments[2] & _WRITING:
            _note(event, arguments[0])
    elif event in _CHANGES and os.path.isabs(os.fsdecode(arguments[0])):  # or below a folder
        _note(event, arguments[0])


def _note(event: str, path: Any) -> None:
    place = Path(os.path.abspath(os.fsdecode(path)))
    if not any(place.is_relative_to(folder) for folder in _allowed):
        _seen.append(f"{event} {place}")


sys.addaudithook(_hook)


@contextlib.contextmanager
def watched(*folders: Path) -> Iterator[None]:
    """Fail where a program is run, or a file is changed that lies in none of the folders."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _seen.clear()
    _allowed[:] = [Path(os.path.abspath(folder)) for folder in (*folders, "/dev", "/proc")]
    try:
        yield
    finally:
        _allowed.clear()
    assert not _seen, _seen[:5]
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    assert grown < MEMORY, f"{grown} MB"
