"""Cut the power under a command: what a disk may hold then of everything that was not synced.

strace notes every change of a folder while a command runs. From one recording any number of states
are made, each as a POSIX file system may leave it when the power fails at some moment: what was
synced by then (``fsync`` of a file for its bytes, of a folder for its names) is there; everything
later is there, or not, or in part, in any combination. A rename is one step, there or not.
"""

from __future__ import annotations

import os
import random
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipes import ROOT

_CALLS = (
    "openat,open,creat,write,pwrite64,writev,pwritev,pwritev2,lseek,ftruncate,truncate,fallocate,"
    "fsync,fdatasync,sync,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,link,linkat,"
    "symlink,symlinkat,sendfile,copy_file_range,clone,clone3,fork,vfork,close,dup,dup2,dup3,mmap"
)
_LINE = re.compile(r"(\d+\.\d+) (\w+)\((.*)\) += (-?\d+)(?:<[^>]*>)?(?: .*)?<(\d+\.\d+)>$")
_FD = r"(?:(-?\d+|AT_FDCWD)(?:<([^>]*)>)?)"
#: bytes of a file that get to a disk together
PAGE = 4096


@dataclass
class Effect:
    """One change: of a name in a folder, or of the bytes of a file; or a sync.

    Attributes
    ----------
    kind : str
        "name", "gone", "rename", "bytes", "size" or "sync".
    node : int
        File or folder that it is about.
    where : tuple
        ((folder, name), ...) of names; (offset,) of bytes; (size,) of a size.
    """

    kind: str
    node: int
    where: tuple[Any, ...] = ()
    content: bytes = b""


@dataclass
class Disk:
    """Files and folders by number; number 0 is the folder that is watched."""

    files: dict[int, bytearray] = field(default_factory=dict)
    folders: dict[int, dict[str, int]] = field(default_factory=lambda: {0: {}})

    def copy(self) -> Disk:
        """Return a disk that can be changed alone."""
        return Disk(
            {n: bytearray(c) for n, c in self.files.items()},
            {n: dict(c) for n, c in self.folders.items()},
        )

    def load(self, folder: Path, node: int = 0) -> None:
        """Take over what lies in a folder."""
        for path in sorted(folder.iterdir()):
            new = len(self.files) + len(self.folders)
            self.folders[node][path.name] = new
            if path.is_dir():
                self.folders[new] = {}
                self.load(path, new)
            else:
                self.files[new] = bytearray(path.read_bytes())

    def find(self, parts: tuple[str, ...]) -> int | None:
        """Return the number of a path, None where nothing is."""
        node: int | None = 0
        for part in parts:
            node = self.folders.get(-1 if node is None else node, {}).get(part)
        return node

    def apply(self, effect: Effect) -> None:
        """Change names or bytes."""
        if effect.kind == "bytes":
            (start,) = effect.where
            content = self.files[effect.node]
            content.extend(bytes(max(0, start - len(content))))
            content[start : start + len(effect.content)] = effect.content
        elif effect.kind == "size":
            (size,) = effect.where
            content = self.files[effect.node]
            del content[size:]
            content.extend(bytes(size - len(content)))
        elif effect.kind in ("name", "gone", "rename"):
            *before, (folder, name) = effect.where
            for old_folder, old_name in before:
                if self.folders[old_folder].get(old_name) == effect.node:
                    del self.folders[old_folder][old_name]
            if effect.kind != "gone":
                self.folders[folder][name] = effect.node
            elif self.folders[folder].get(name) == effect.node:
                del self.folders[folder][name]

    def contents(self, node: int = 0, above: str = "") -> dict[str, bytes]:
        """Return the bytes of every file that has a name, by its path."""
        found = {}
        for name, below in self.folders[node].items():
            if below in self.folders:
                found |= self.contents(below, f"{above}{name}/")
            else:
                found[above + name] = bytes(self.files[below])
        return found

    def write(self, folder: Path, node: int = 0) -> None:
        """Make a folder hold what the disk holds, and nothing else."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, below in self.folders[node].items():
            if below in self.folders:
                self.write(folder / name, below)
            else:
                (folder / name).write_bytes(self.files[below])


@dataclass
class Recording:
    """What a command did to a folder.

    Attributes
    ----------
    before : Disk
        State at its start, all of it synced.
    effects : list of Effect
        Changes and syncs in the order in which they ended.
    """

    folder: Path
    before: Disk
    effects: list[Effect]

    def whole(self) -> Disk:
        """Return the disk at the end, which is what really lies there now."""
        disk = self._empty(self.effects)
        for effect in self.effects:
            disk.apply(effect)
        return disk

    def _empty(self, effects: list[Effect]) -> Disk:
        """Return the disk before, with all later files and folders, none of which has a name."""
        disk = self.before.copy()
        for effect in effects:
            if effect.kind == "name":
                if effect.content == b"folder":
                    disk.folders.setdefault(effect.node, {})
                else:
                    disk.files.setdefault(effect.node, bytearray())
        return disk

    def cut(self, rng: random.Random) -> Disk:
        """Return what may be on the disk after a power cut at a random moment."""
        # half of the cuts come late, where much is claimed to be done
        count = len(self.effects)
        moment = rng.randint(0, count) if rng.random() < 0.5 else count - rng.randint(0, count // 4)
        done = self.effects[:moment]
        synced = _synced(done)
        names, bytes_ = (rng.choice(("none", "all", "first", "any")) for _ in range(2))
        last = rng.randint(0, moment)
        disk = self._empty(done)
        for place, effect in enumerate(done):
            content = effect.kind in ("bytes", "size")
            how = bytes_ if content else names
            kept = {"none": False, "all": True, "first": place < last}.get(how)
            if place in synced or (rng.random() < 0.5 if kept is None else kept):
                disk.apply(effect)
            elif effect.kind == "bytes" and how == "any":
                disk.apply(_in_part(effect, rng))
        return disk


def _synced(effects: list[Effect]) -> set[int]:
    found, nodes = set(), set()
    for place in reversed(range(len(effects))):
        effect = effects[place]
        if effect.kind == "sync":
            nodes.add(effect.node)
        elif effect.kind in ("bytes", "size"):
            if effect.node in nodes:
                found.add(place)
        elif any(folder in nodes for folder, _ in effect.where):
            found.add(place)
    return found


def _in_part(effect: Effect, rng: random.Random) -> Effect:
    """Some pages of what was written: zeros in their place, or nothing after a random byte."""
    content, (start,) = bytearray(effect.content), effect.where
    if rng.random() < 0.5:
        for page in range(0, len(content), PAGE):
            if rng.random() < 0.5:
                content[page : page + PAGE] = bytes(len(content[page : page + PAGE]))
    else:
        del content[rng.randint(0, len(content)) :]
    return Effect("bytes", effect.node, (start,), bytes(content))


def record(folder: Path, *commands: tuple[Any, ...]) -> Recording:
    """Run commands of pipelines/, (name, argument, ...), and note what they do to a folder.

    The folder keeps the result.
    """
    before = Disk()
    before.load(folder)
    logs = folder.with_name(f"{folder.name}.calls")
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir()
    options = ["-ff", "-ttt", "-T", "-y", "-xx", "-s", "100000000", "-o", str(logs / "of")]
    lines = [
        shlex.join([sys.executable, f"{ROOT}/pipelines/{name}.py", *(str(a) for a in arguments)])
        for name, *arguments in commands
    ]
    subprocess.run(
        ["strace", "--seccomp-bpf", *options, "-e", f"trace={_CALLS}"]
        + ["sh", "-e", "-c", "\n".join(lines)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
        timeout=300,
    )
    reader = _Reader(folder, before.copy())
    for _, process, call, text, result in sorted(_calls(logs)):
        reader.read(process, call, text, result)
    shutil.rmtree(logs)
    return Recording(folder, before, reader.effects)


def _calls(logs: Path) -> list[tuple[float, int, str, str, int]]:
    """Calls of all threads, told by the process whose files they share."""
    calls, owner = [], {}
    for log in logs.iterdir():
        thread = int(log.suffix[1:])
        for line in log.read_text().splitlines():
            found = _LINE.match(line)
            if found is None:
                continue
            start, call, text, result, took = found.groups()
            if call in ("clone", "clone3") and "CLONE_FILES" in text and "CLONE_VFORK" not in text:
                owner[int(result)] = thread
            if int(result) < 0:
                continue
            # a folder is there before strace sees the end of the call, and another thread may have
            # made something in it by then
            ended = float(start) + (0 if call.startswith("mkdir") else float(took))
            calls.append((ended, thread, call, text, int(result)))

    def process(thread: int) -> int:
        return process(owner[thread]) if thread in owner else thread

    return [(time, process(thread), *rest) for time, thread, *rest in calls]


class _Reader:
    """Turn system calls into effects."""

    def __init__(self, folder: Path, disk: Disk) -> None:
        self.folder, self.disk = str(folder), disk
        self.effects: list[Effect] = []
        self.next = len(disk.files) + len(disk.folders)
        #: (process, descriptor): [node, position]; None is a position at the end of the file
        self.open: dict[tuple[int, int], list[Any]] = {}

    def change(self, *values: Any) -> None:
        effect = Effect(*values)
        if effect.kind == "name" and effect.node == self.next:
            self.next += 1
            if effect.content == b"folder":
                self.disk.folders[effect.node] = {}
            else:
                self.disk.files[effect.node] = bytearray()
        self.disk.apply(effect)
        self.effects.append(effect)

    def parts(self, path: str) -> tuple[str, ...] | None:
        path = os.path.normpath(path)
        if path != self.folder and not path.startswith(f"{self.folder}/"):
            return None
        return tuple(p for p in path[len(self.folder) :].split("/") if p)

    def paths(self, text: str) -> list[tuple[str, ...] | None]:
        """Every path of a call, each with the folder that it starts from."""
        found = re.findall(rf'(?:{_FD}, )?"([^"]*)"', text)
        return [self.parts(os.path.join(_plain(base), _plain(path))) for _, base, path in found]

    def place(self, parts: tuple[str, ...]) -> tuple[int, str]:
        folder = self.disk.find(parts[:-1])
        assert folder is not None, parts
        return folder, parts[-1]

    def read(self, process: int, call: str, text: str, result: int) -> None:
        if call in ("openat", "open", "creat"):
            self.opened(process, text, result)
        elif call in ("mkdir", "mkdirat"):
            (parts,) = self.paths(text)
            if parts:
                self.change("name", self.next, (self.place(parts),), b"folder")
        elif call in ("unlink", "unlinkat", "rmdir"):
            (parts,) = self.paths(text)
            if parts:
                self.change("gone", self.disk.find(parts), (self.place(parts),))
        elif call in ("rename", "renameat", "renameat2"):
            old, new = self.paths(text)
            assert (old is None) == (new is None), text
            if old and new:
                self.change("rename", self.disk.find(old), (self.place(old), self.place(new)))
        elif call in ("link", "linkat", "symlink", "symlinkat"):
            assert not any(self.paths(text)), f"not known here: {call}"
        elif (found := re.match(_FD, text)) and found[1] != "AT_FDCWD":
            self.with_descriptor(process, call, text, result, int(found[1]), found[2] or "")

    def opened(self, process: int, text: str, result: int) -> None:
        (parts,) = self.paths(text)
        self.open.pop((process, result), None)
        if parts is None:
            return
        node = self.disk.find(parts)
        if node is None:
            node = self.next
            self.change("name", node, (self.place(parts),))
        if "O_TRUNC" in text and self.disk.files[node]:
            self.change("size", node, (0,))
        self.open[process, result] = [node, None if "O_APPEND" in text else 0]

    def with_descriptor(
        self, process: int, call: str, text: str, result: int, number: int, path: str
    ) -> None:
        parts = self.parts(_plain(path))
        if call == "close":
            self.open.pop((process, number), None)
        elif call in ("dup", "dup2", "dup3"):
            if (process, number) in self.open:
                self.open[process, result] = self.open[process, number]
        elif parts is None and (process, number) not in self.open:
            return
        if call in ("sendfile", "copy_file_range", "fallocate", "close", "dup", "dup2", "dup3"):
            assert call not in ("sendfile", "copy_file_range", "fallocate"), f"not known: {call}"
            return
        if (process, number) not in self.open:  # inherited: logs, which are appended to
            node = self.disk.find(parts or ())
            if node is None:
                return
            self.open[process, number] = [node, None]
        state = self.open[process, number]
        node = state[0]
        if call in ("fsync", "fdatasync"):
            self.change("sync", node)
        elif call == "ftruncate":
            self.change("size", node, (int(text.rpartition(",")[2]),))
        elif call == "lseek":
            state[1] = None if state[1] is None else result
        elif call in ("write", "writev", "pwrite64", "pwritev", "pwritev2"):
            content = b"".join(_bytes(t) for t in re.findall(r'"([^"]*)"', text))[:result]
            size = len(self.disk.files[node])
            if call.startswith("p"):
                start = int(text.split(", ")[-1 if call != "pwritev2" else -2])
            else:
                start = size if state[1] is None else state[1]
                state[1] = None if state[1] is None else start + result
            if content:
                self.change("bytes", node, (start,), content)


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def _plain(text: str) -> str:
    return re.sub(r"(?:\\x[0-9a-f]{2})+", lambda found: _bytes(found[0]).decode(), text)
