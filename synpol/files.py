"""Files that are there whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a file under a temporary name and rename it."""
    temporary = path.with_name(f"{path.name}.{os.uname().nodename}.{os.getpid()}.tmp")
    try:
        try:
            file = open(temporary, "wb")  # noqa: SIM115 closed below
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(temporary, "wb")  # noqa: SIM115
        with file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: str | Path, content: object) -> None:
    """Write JSON whole or not at all."""
    path = Path(path)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(path)


def is_url(path: str | os.PathLike[str]) -> bool:
    return "://" in str(path)


def join(container: str | os.PathLike[str], *names: str) -> str:
    """Path or URL of something inside a container."""
    return "/".join([str(container).rstrip("/"), *names])
