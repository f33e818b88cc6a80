"""Make links to positions in a scene that this machine serves."""

from __future__ import annotations

from collections.abc import Sequence


def position_link(port: int, position: Sequence[float]) -> str:
    """Return the address of a position (z, y, x; nm) in the scene on a port of this machine."""
    z, y, x = position
    return f"http://127.0.0.1:{port}/at?z={z:.0f}&y={y:.0f}&x={x:.0f}"
