"""Which format an image is stored in, told without importing what reads that format."""

from __future__ import annotations

import json
import os
from typing import Any

from synpol.files import is_url, join
from synpol.images.stores import Store

#: how paths and URLs of precomputed volumes begin
SCHEME = "precomputed://"
#: file with the attributes of an N5 dataset
N5_ATTRIBUTES = "attributes.json"
_ZARR = ("zarr.json", ".zarray", ".zgroup")


def is_precomputed(path: str, anonymous: bool = False) -> bool:
    """Whether a folder or URL holds a precomputed volume, and no Zarr."""
    if is_url(path):
        return _has(Store(path, anonymous).read("info") or b"[]", "scales")
    if any(os.path.exists(join(path, name)) for name in _ZARR):
        return False
    return _has(_content(join(path, "info")), "scales")


def is_n5(path: str) -> bool:
    """Whether a folder is a dataset of an N5 container; a URL, whether it says so."""
    if is_url(path):
        return ".n5/" in path
    return _has(_content(join(path, N5_ATTRIBUTES)), "dimensions")


def _content(path: str) -> bytes:
    """The bytes of a file; none where there is no such file."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def _has(content: bytes, key: str) -> bool:
    """Whether bytes are a JSON object with a key."""
    try:
        told: Any = json.loads(content)
    except (ValueError, RecursionError):
        return False
    return isinstance(told, dict) and key in told
