"""Formats that volumes are imported from, each in a module of this folder.

A format is a subclass of `Stack` that is given to `register`: it says which files are its own,
opens them, and describes itself for messages and help. All modules of this folder are imported with
it, so a file that is added here is all that a new format takes. A format that lives elsewhere
registers itself when its module is imported.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import numpy as np

from synpol.errors import InputError, nearest


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
    shape : (z, y, x)
    dtype : dtype

    Raises
    ------
    InputError
        The file cannot be read, or holds something other than a volume.
    """

    name: ClassVar[str]
    files: ClassVar[str]
    shape: tuple[int, int, int]
    dtype: np.dtype

    @abstractmethod
    def __init__(self, path: Path, key: str | None) -> None: ...

    @classmethod
    @abstractmethod
    def opens(cls, path: Path) -> bool:
        """Say whether something that exists is of this format, by its name or kind."""

    @abstractmethod
    def slab(self, begin: int, end: int) -> np.ndarray:
        """Read sections begin .. end - 1; (z, y, x)."""


#: formats by name
FORMATS: dict[str, type[Stack]] = {}


def register[Format: type[Stack]](kind: Format) -> Format:
    """Add a format, or replace the one of the same name; to be used as a decorator."""
    FORMATS[kind.name] = kind
    return kind


def known_formats() -> str:
    """List what can be imported, for people."""
    return ", ".join(kind.files for kind in FORMATS.values())


def open_stack(source: str, key: str | None) -> Stack:
    """Open a volume that is to be imported.

    Where several formats open the same file, the one that was registered last does.

    Parameters
    ----------
    source : path
        A file or folder.
    key : str, optional
        Which volume of it, in formats that hold several.

    Raises
    ------
    InputError
        Nothing is there, the format is unknown, or the file cannot be used.
    """
    path = Path(source)
    if not path.exists():
        known = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise InputError(f"there is no file or folder {source}{nearest(path.name, known)}")
    for kind in reversed(FORMATS.values()):
        if kind.opens(path):
            return kind(path, key)
    neither = ", nor ".join(kind.files for kind in FORMATS.values())
    raise InputError(f"{source} is neither {neither}")


for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_module.name)
