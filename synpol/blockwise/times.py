"""How long blocks took: noted by every process that does blocks, told at the end of a stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from synpol.blockwise.stage import AnyStage, BlockTime


def times_folder(work_dir: Path, stage: AnyStage) -> Path:
    """Where processes note how long blocks of a stage took."""
    return work_dir / "logs" / stage.name.replace(" ", "-")


def append_time(path: Path, took: BlockTime) -> None:
    """Add a line: index z y x, seconds in all, computing, idle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    z, y, x = took.index
    with open(path, "a") as file:
        file.write(f"{z} {y} {x} {took.total:.3f} {took.computing:.3f} {took.idle:.3f}\n")


def told_by(folder: Path) -> str:
    """Which blocks of a stage took longest, and how much of the time was spent waiting for data."""
    lines = [
        line.split() for path in folder.glob("*.times") for line in path.read_text().split("\n")
    ]
    rows = np.array([line for line in lines if len(line) == 6], dtype=float)  # none that was cut
    if not len(rows):
        return ""
    total, computing, idle = rows[:, 3:].T
    slowest = rows[np.argsort(-total, kind="stable")[:3]]
    shown = ", ".join(f"({z:.0f}, {y:.0f}, {x:.0f}) {took:.1f} s" for z, y, x, took, *_ in slowest)
    waited = 100 * idle.sum() / max(idle.sum() + computing.sum(), 1e-9)
    return f"; {waited:.0f} % of the time went by waiting for data; slowest blocks: {shown}"
