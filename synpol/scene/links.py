"""Links into a scene that this machine serves."""

from __future__ import annotations

from collections.abc import Sequence


def place_link(port: int, place: Sequence[float]) -> str:
    """Address of a place (z, y, x; nm) in the scene that this machine serves on a port."""
    z, y, x = place
    return f"http://127.0.0.1:{port}/at?z={z:.0f}&y={y:.0f}&x={x:.0f}"
