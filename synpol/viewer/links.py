"""Links into a scene that this machine serves."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path


def scene_token(work_dir: Path) -> str:
    """The secret part of a scene's addresses: made once, readable by its owner alone."""
    path = work_dir / "scene_token"
    work_dir.mkdir(parents=True, exist_ok=True)
    with (
        contextlib.suppress(FileExistsError),
        open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file,
    ):
        file.write(secrets.token_hex(16))
    return path.read_text()


def place_link(port: int, token: str, place: Sequence[float]) -> str:
    """Address of a place (z, y, x; nm) in the scene that this machine serves on a port."""
    z, y, x = place
    return f"http://127.0.0.1:{port}/at/{token}?z={z:.0f}&y={y:.0f}&x={x:.0f}"
