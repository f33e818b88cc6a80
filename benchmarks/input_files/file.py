"""A file of a writer, and the volume that all of them hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

SHAPE = (19, 24, 37)
SIZE = (40.0, 8.0, 4.0)
#: corner of the first voxel, nm, in files that say a place
CORNER = (400.0, 80.0, 12.0)
RAW = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
IDS = RAW.astype(np.uint64) + (RAW > 0) * np.uint64(2**40)
BOTH = np.stack([RAW, 255 - RAW])
#: keys of a config where a file says no voxel size, or holds labels
SAID = {"voxel_size": list(SIZE)}
LABELS = {"kind": "labels"}

Write = Callable[[Path], Path]


@dataclass(frozen=True)
class File:
    """A file of a writer, and what it means.

    Attributes
    ----------
    format : str
        Format, as the docs call it.
    writer : str
        Package that writes it.
    about : str
        What is special about it.
    write : callable
        Writes it into an empty folder and returns its path.
    values : array or None
        Volume that it means; None: it has to be refused.
    keys : mapping
        Keys of the config besides the path. Without `voxel_size` the file says it.
    in_place : bool
        Whether commands read it without an import.
    placed : bool
        Whether the file says a place; without that its first corner is at 0.
    corner : (z, y, x)
        Place that it says, nm.
    remark : str
        What a user should know, and why it is refused.
    """

    format: str
    writer: str
    about: str
    write: Write
    values: np.ndarray | None = field(default_factory=lambda: RAW)
    keys: dict[str, Any] = field(default_factory=dict)
    in_place: bool = False
    placed: bool = False
    corner: tuple[float, float, float] = CORNER
    remark: str = ""

    @property
    def name(self) -> str:
        """Writer and what is special."""
        return f"{self.writer}: {self.about}"

    @property
    def offset(self) -> tuple[float, float, float]:
        """Corner of the first voxel, nm."""
        return self.corner if self.placed else (0.0, 0.0, 0.0)

    @property
    def ways(self) -> tuple[str, ...]:
        """Ways in which it is read."""
        return ("in place", "import") if self.in_place else ("import",)

    @property
    def opens(self) -> str:
        """How a user opens it."""
        if self.values is None:
            return "refused"
        return "in place" if self.in_place else "by `prepare`"

    @property
    def taken(self) -> str:
        """What the file says about size and place."""
        if self.values is None:
            return ""
        said = [] if "voxel_size" in self.keys else ["voxel size"]
        return ", ".join([*said, *(["offset"] if self.placed else [])])
