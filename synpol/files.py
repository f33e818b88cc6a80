"""Write a file or a folder whole or not at all; tell paths from URLs.

What is written lies under a temporary name beside its place and is renamed when it is finished. So
a reader never sees half of it, and an error or a kill leaves what was there before. A system may
write the new name to the disk before the content: after a power cut the file would be empty. So the
content is synced to the disk before the file is renamed, and the folder after it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import os
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from synpol.errors import InputError

#: errors of file systems that cannot sync a folder, and do it by themselves
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP)
#: time of a temporary file that nobody has written yet, nanoseconds
_NEVER = 0
#: number of syncs that a disk gets at the same time
_SYNCS_AT_ONCE = 16
#: folders that this process has synced, and when they had got their last name
_synced: dict[Path, tuple[int, int]] = {}
#: nanoseconds without a new name after which a folder is remembered; clocks of files are coarse
_SETTLED = 10**9


@contextlib.contextmanager
def whole_file(
    path: str | os.PathLike[str], *, rivals: bool = False, sync: bool = True
) -> Iterator[Path]:
    """Give a temporary name to write a file under, and rename the file at the end.

    Parameters
    ----------
    path : path
        Final name. Its folder is made when it is missing.
    rivals : bool
        Whether several processes may write this file at the same time. Each of them then has a
        temporary name of its own. Otherwise the name is always ``<path>.tmp``, so that the next
        writer overwrites what a killed one left.
    sync : bool
        Whether the file has to be on the disk afterwards, so that not even a power cut damages it.
        It takes milliseconds; a file that only the running processes read does without.

    Yields
    ------
    Path
        Temporary name. It is removed after an error.

    Raises
    ------
    InputError
        A folder has one of the names, or another process writes the file at this moment.
    """
    path = Path(path).absolute()  # libraries take a relative name with a colon for a URL
    own = f".{os.uname().nodename}.{os.getpid()}" if rivals else ""
    temporary = path.with_name(f"{path.name}{own}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.nullcontext() if rivals else _alone(temporary, path):
        try:
            yield temporary
            if temporary.stat().st_mtime_ns == _NEVER:
                raise FileNotFoundError(f"nothing was written to {temporary}")
            if sync:
                sync_to_disk(temporary)
            os.replace(temporary, path)
        except BaseException as error:
            for place in (path, temporary):
                if isinstance(error, IsADirectoryError) and place.is_dir():
                    raise InputError(
                        f"{place} is a folder; a file to write is expected: remove the folder, or "
                        "give another name"
                    ) from None
            temporary.unlink(missing_ok=True)
            raise
    if sync:
        sync_to_disk(path.parent)


@contextlib.contextmanager
def _alone(temporary: Path, path: Path) -> Iterator[None]:
    """Lock a temporary file, made when it is missing, or folder until it has its final name.

    Of two that write at the same time the second one gets an `InputError`, so that the first one's
    content stays its own. On a file system without locks both go on.
    """
    flags = os.O_RDONLY if temporary.is_dir() else os.O_RDWR | os.O_CREAT
    while True:
        descriptor = os.open(temporary, flags, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(
                    f"{path} is being written by another run at this moment; wait for it or end "
                    "it, then run this again, or give another name"
                ) from None
            except OSError:  # a file system without locks
                pass
            if _is_still(temporary, descriptor):
                if stat.S_ISREG(os.fstat(descriptor).st_mode):
                    os.ftruncate(descriptor, 0)
                    os.utime(descriptor, ns=(_NEVER, _NEVER))
                yield
                return
        finally:
            os.close(descriptor)


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether an open file or folder has that name; another process may have renamed it."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    return False


def sync_to_disk(path: str | os.PathLike[str]) -> None:
    """Wait until a power cut cannot take the content of a file, or the names in a folder, away."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give an empty temporary folder to fill, and let it take the place of a folder at the end.

    Parameters
    ----------
    path : Path
        Final name. A folder of this name is replaced.

    Yields
    ------
    Path
        Temporary folder, ``<path>.tmp/new``. It is removed after an error.

    Raises
    ------
    InputError
        A file has one of the names, ``<path>.tmp`` holds something else, or another process writes
        the folder at this moment.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    for place in (path, temporary):
        if place.is_symlink() or place.is_file():
            raise InputError(f"{place} is no folder; a folder to write is expected")
    new, old = temporary / "new", temporary / "old"
    if temporary.exists() and not {*temporary.iterdir()} <= {new, old}:
        raise InputError(
            f"{temporary} holds other files than parts of an unfinished {path.name}, for which "
            "this name is needed; remove it or give another name"
        )
    temporary.mkdir(parents=True, exist_ok=True)
    with _alone(temporary, path):
        try:
            for left in (new, old):
                shutil.rmtree(left, ignore_errors=True)
            new.mkdir()
            yield new
            _sync_all(new)
            with contextlib.suppress(FileNotFoundError):
                path.rename(old)  # at once, while removing it takes time
            new.rename(path)
            sync_to_disk(path.parent)
        finally:
            if old.exists() and not path.exists():  # interrupted between the two
                old.rename(path)
            shutil.rmtree(temporary, ignore_errors=True)


def sync_together(paths: Iterable[Path]) -> None:
    """Sync files and folders to the disk, those that are there; much faster than one by one.

    A disk waits for its own cache at every sync, and once for all that come at the same time. A
    folder that was synced before, and has got no names since, is left out.
    """
    changed = {path: about for path in paths if (about := _last_change(path)) != _synced.get(path)}
    with ThreadPoolExecutor(_SYNCS_AT_ONCE) as threads:
        list(threads.map(_sync_if_there, changed))
    for path, about in changed.items():
        if about is not None and time.time_ns() - about[1] > _SETTLED and path.is_dir():
            _synced[path] = about


def _last_change(path: Path) -> tuple[int, int] | None:
    """Return what tells whether a folder has got names, or is another one."""
    with contextlib.suppress(FileNotFoundError):
        about = path.stat()
        return about.st_ino, about.st_mtime_ns
    return None


def _sync_if_there(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        sync_to_disk(path)


def _sync_all(folder: Path) -> None:
    """Sync a folder and all that is in it to the disk."""
    sync_together([folder, *folder.rglob("*")])


@contextlib.contextmanager
def whole_remote_file(url: str) -> Iterator[IO[bytes]]:
    """Open a temporary remote file to be written, and rename it at the end.

    Parameters
    ----------
    url : str
        Final name, of any kind that fsspec knows.

    Yields
    ------
    binary file
        The file ``<url>.tmp``. It is removed after an error.
    """
    from fsspec.core import url_to_fs  # for remote outputs only

    system, target = url_to_fs(url)
    temporary = f"{target}.tmp"
    try:
        with system.open(temporary, "wb") as file:
            yield file
        system.mv(temporary, target)
    except BaseException:
        with contextlib.suppress(Exception):  # a server that fails at this too
            system.rm_file(temporary)
        raise


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's content, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def digest_beside(path: str | os.PathLike[str]) -> Iterator[None]:
    """Keep the SHA-256 of a file that is written meanwhile in ``<path>.sha256``.

    The format is that of ``sha256sum``. While the file is written there is none, so a kill leaves
    no digest of other content.
    """
    kept = _digest_path(path)
    kept.unlink(missing_ok=True)
    yield
    size, name = os.stat(path).st_size, Path(path).name
    with whole_file(kept, sync=False) as temporary:  # a damaged digest is as none
        temporary.write_text(f"# {size} bytes\n{sha256_of(path)}  {name}\n")


def has_rotted(path: str | os.PathLike[str]) -> bool:
    """Whether a file has other content than when its digest was kept, in as many bytes.

    A file that somebody wrote anew has another size, and is not judged.
    """
    about = os.stat(path)
    try:
        said = _digest_path(path).read_text().split()
        size, digest = int(said[1]), said[3]
    except (OSError, ValueError, IndexError):  # there is none, or it is damaged itself
        return False
    return size == about.st_size and digest != known_sha256(path)


def known_sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file that one command asks for several times, and reads once."""
    about = os.stat(path)
    return _known_sha256(os.fspath(path), about.st_size, about.st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _known_sha256(path: str, size: int, changed: int) -> str:
    return sha256_of(path)


def _digest_path(path: str | os.PathLike[str]) -> Path:
    return Path(path).with_name(f"{Path(path).name}.sha256")


def write_whole(path: Path, content: bytes | memoryview, *, sync: bool = True) -> None:
    """Write a small file whole or not at all; several processes may write it at the same time.

    Parameters
    ----------
    path, content
        Name and content of the file.
    sync : bool
        As in `whole_file`.
    """
    with whole_file(path, rivals=True, sync=sync) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text)


def write_json(path: str | os.PathLike[str], content: object) -> None:
    """Write JSON whole or not at all."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a URL instead of a local path."""
    return "://" in str(path)


def join(container: str | os.PathLike[str], *names: str) -> str:
    """Path or URL of something inside a container."""
    return "/".join([str(container).rstrip("/"), *names])
