"""Formats of other programs that volumes are imported from, each in a module of this folder.

A format is a subclass of `Stack` that is given to `register`: it says which files are its own,
opens them, and describes itself for messages and help. All modules of this folder are imported with
it, so a file that is added here is all that a new format takes. A format that lives elsewhere
registers itself when its module is imported.

What formats share lies in `first_bytes` (which format a file is), `axes` (how a stored array is
turned to z, y, x), `calibration` (voxel size and place) and `plain` (voxels that lie in a file
without chunks).
"""

from __future__ import annotations

import importlib
import math
import os
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import numpy as np

from synpol.errors import InputError, nearest
from synpol.files import is_url
from synpol.formats.axes import ArrayLike, Choice, Layout
from synpol.formats.calibration import Calibration
from synpol.formats.first_bytes import describe_file


class Stack(ABC):
    """Read a volume in slabs of whole sections; each format is a subclass.

    Parameters
    ----------
    path : Path
        A file or folder for which `opens` is true.
    key : str, optional
        Which volume of it, in formats that hold several.

    Attributes
    ----------
    name : str
        Name of the format.
    files : str
        Files that the format opens, for messages and help.
    is_fallback : bool
        Whether other formats are asked first.
    shape : (z, y, x), or (channel, z, y, x) of a polarity prediction
    dtype : dtype
    read_as : str
        How values or axes differ from what is stored, empty where they do not.
    source : str
        Path or URL as it was given.

    Raises
    ------
    InputError
        The file cannot be read, or holds something other than a volume.
    """

    name: ClassVar[str]
    files: ClassVar[str]
    is_fallback: ClassVar[bool] = False
    #: whether it can read a URL without credentials
    is_anonymous: ClassVar[bool] = False
    shape: tuple[int, ...]
    dtype: np.dtype
    read_as: str = ""
    source: str = ""

    @abstractmethod
    def __init__(self, path: Path, key: str | None) -> None: ...

    @classmethod
    @abstractmethod
    def opens(cls, path: Path) -> bool:
        """Say whether something that exists is of this format, by its first bytes or kind."""

    @classmethod
    def opens_url(cls, url: str) -> bool:
        """Say whether a URL is to be opened with this format."""
        return False

    @classmethod
    def parts(cls, path: Path) -> list[Path]:
        """List the files that a source is made of; a change of one has it imported again."""
        return sorted(path.iterdir()) if path.is_dir() else [path]

    @classmethod
    def keys(cls, path: Path) -> list[str]:
        """List the volumes of a file that holds several, for the key ``*``."""
        return []

    @abstractmethod
    def slab(self, begin: int, end: int) -> np.ndarray:
        """Read sections begin .. end - 1; (z, y, x), of a prediction (channel, z, y, x)."""

    def read(self, begin: int, end: int) -> np.ndarray:
        """Read a slab; whatever the format's library raises becomes an InputError.

        Raises
        ------
        InputError
            The file is damaged, or a slab is larger than memory.
        """
        self.check_slab(end - begin)
        with reading(self.source, self.name):
            return self.slab(begin, end)

    def check_slab(self, count: int) -> None:
        """Refuse sections that take more memory than this machine has left.

        Parameters
        ----------
        count : int
            Sections that are to be in memory at once.

        Raises
        ------
        InputError
        """
        *lead, _, height, width = self.shape
        check_memory(self.source, math.prod((*lead, count, height, width)) * self.dtype.itemsize)

    def close(self) -> None:
        """Close files; nothing is read afterwards."""
        return

    def calibration(self) -> Calibration:
        """Return what the file says about voxel size and place."""
        return Calibration()

    def choose(self, choice: Choice) -> None:
        """Take what the config says about channel, time and axes, before anything is read.

        Raises
        ------
        InputError
            A choice is missing, or does not fit to the file.
        """
        for key in ("channel", "time", "axes"):
            given = getattr(choice, key)
            if given is not None:
                raise InputError(
                    f"{key} is {given!r}, but {self.files} has sections without other axes; leave "
                    f"`{key}` out"
                )


class ArrayStack(Stack):
    """Read a volume out of an array whose axes may have names; a base class of formats.

    A subclass sets `what`, `array` and `names` when it opens a file.

    Attributes
    ----------
    what : str
        Path, and key where there is one, for messages.
    array : array
        Stored array, of which regions are read.
    names : sequence of str or None
        Names of its axes, slowest first, where the file says them.
    layout : Layout
        How the array is turned; there after `choose`.
    """

    what: str
    array: ArrayLike
    names: Sequence[str] | None = None
    layout: Layout

    def choose(self, choice: Choice) -> None:
        self.dtype = np.dtype(self.array.dtype)
        self.layout = Layout.of(self.what, self.names, self.array.shape, choice)
        self.shape = self.layout.shape

    def slab(self, begin: int, end: int) -> np.ndarray:
        return self.layout.read(self.array, begin, end)


#: formats by name
FORMATS: dict[str, type[Stack]] = {}


def register[Format: type[Stack]](kind: Format) -> Format:
    """Add a format, or replace the one of the same name; to be used as a decorator."""
    FORMATS[kind.name] = kind
    return kind


def known_formats() -> str:
    """List what can be imported, for people."""
    return ", ".join(kind.files for kind in FORMATS.values())


def format_of(source: str) -> type[Stack]:
    """Find the format of a source.

    Where several formats open the same file, the one that was registered last does.

    Raises
    ------
    InputError
        Nothing is there, or the format is unknown.
    """
    known = sorted(reversed(FORMATS.values()), key=lambda kind: kind.is_fallback)
    if is_url(source):
        found = next((kind for kind in known if kind.opens_url(source)), None)
        if found is None:
            raise InputError(f"{source} is a URL that no format opens; download the volume first")
        return found
    path = Path(source)
    if not path.exists():
        names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise InputError(f"there is no file or folder {source}{nearest(path.name, names)}")
    found = next((kind for kind in known if kind.opens(path)), None)
    if found is None:
        neither = ", nor ".join(kind.files for kind in FORMATS.values())
        raise InputError(f"{source} is neither {neither}: {describe_file(path)}")
    return found


def keys_of(source: str) -> list[str]:
    """List the volumes of a source that holds several; none in other formats."""
    if is_url(source):
        return []
    kind = format_of(source)
    with reading(source, kind.name):
        return kind.keys(Path(source))


def open_stack(source: str, key: str | None, choice: Choice | None = None) -> Stack:
    """Open a volume that is to be imported.

    Parameters
    ----------
    source : path or URL
        A file or folder.
    key : str, optional
        Which volume of it, in formats that hold several.
    choice : Choice, optional
        What the config says about channel, time and axes.

    Raises
    ------
    InputError
        Nothing is there, the format is unknown, or the file cannot be used.
    """
    kind = format_of(source)
    if choice is not None and choice.anonymous and not (is_url(source) and kind.is_anonymous):
        raise InputError(
            f"{source} is not Zarr or precomputed at a URL, so `anonymous` is not read; leave it "
            "out"
        )
    with reading(source, kind.name):
        stack = kind(source if is_url(source) else Path(source), key)  # type: ignore[arg-type]
    stack.source = source
    try:
        with reading(source, kind.name):
            stack.choose(choice or Choice())
        if stack.dtype.kind not in "buif":
            raise InputError(
                f"{source} holds values of the type {stack.dtype}; whole numbers or floats are "
                "expected: convert it first"
            )
    except InputError:
        stack.close()
        raise
    return stack


def check_memory(what: object, needed: int) -> None:
    """Refuse a read that takes more memory than this machine has left, before it is asked for.

    A damaged header claims any size, and the system gives out more memory than there is until it
    ends the process that uses it.

    Parameters
    ----------
    what : path or str
        File that is read.
    needed : int
        Bytes in memory at once.
    """
    free = _free_memory()
    if needed > free:
        raise InputError(
            f"{what} says that its sections are so large that {needed / 2**30:.1f} GiB have to be "
            f"in memory at once, and {free / 2**30:.1f} GiB are free; if they are not that large, "
            "the file is damaged: copy it again"
        )


def _free_memory() -> int:
    """Return the bytes of memory that this machine can still give."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def reading(what: object, kind: str) -> Iterator[None]:
    """Turn what a library raises about a file into an InputError that names the file.

    Parameters
    ----------
    what : path or str
        File that is read.
    kind : str
        Name of its format.
    """
    try:
        yield
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(
            f"{what} takes more memory than there is ({error}); if its sections are not that "
            "large, the file is damaged: copy it again"
        ) from error
    except Exception as error:
        reason = str(error) or type(error).__name__
        if isinstance(error, KeyError):
            reason = f"the entry {reason} is missing"
        raise InputError(
            f"{what} cannot be read as {kind}: {reason}; if the file is damaged, copy it again"
        ) from error


for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_module.name)
