"""Note how long blocks took, in every process that does blocks, and summarise it for people."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from synpol.blockwise.records import Index
from synpol.blockwise.stage import AnyStage


@dataclass(frozen=True)
class BlockTime:
    """How long one block took, in seconds.

    Attributes
    ----------
    index : (int, int, int)
        Index of the block.
    total : float
        Time from the first read to the record, without the wait for another block.
    computing : float
        Time of `Stage.compute`.
    idle : float
        Time before this block in which the process computed nothing: it waited for data.
    """

    index: Index
    total: float
    computing: float
    idle: float


def times_folder(work_dir: Path, stage: AnyStage) -> Path:
    """Return the folder in which processes note how long the blocks of a stage took."""
    return work_dir / "logs" / stage.name.replace(" ", "-")


def append_time(path: Path, took: BlockTime) -> None:
    """Add the line of one block to a file: z, y, x, seconds in all, computing, idle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    z, y, x = took.index
    with open(path, "a") as file:
        file.write(f"{z} {y} {x} {took.total:.3f} {took.computing:.3f} {took.idle:.3f}\n")


def summary_of(folder: Path) -> str:
    """Say which blocks of a stage took longest, and how much of the time went by without data."""
    lines = [
        line.split() for path in folder.glob("*.times") for line in path.read_text().split("\n")
    ]
    whole = [line for line in lines if len(line) == 6]  # a killed process may leave half a line
    if not whole:
        return ""
    rows = np.array(whole, dtype=float)
    total, computing, idle = rows[:, 3:].T
    slowest = rows[np.argsort(-total, kind="stable")[:3]]
    shown = ", ".join(f"({z:.0f}, {y:.0f}, {x:.0f}) {took:.1f} s" for z, y, x, took, *_ in slowest)
    waited = 100 * idle.sum() / max(idle.sum() + computing.sum(), 1e-9)
    return f"; {waited:.0f} % of the time went by waiting for data; slowest blocks: {shown}"
