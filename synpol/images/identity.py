"""What tells one state of an image from another."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from synpol.files import is_url
from synpol.images.image import HASH, Image, check_complete


def identity_of(image: Image) -> dict[str, Any]:
    """What tells one state of an array from another.

    For an array that synpol wrote its hash does; for a foreign one, path and metadata do.

    Raises
    ------
    InputError
        synpol began to write the array and did not finish.
    """
    attributes = dict(image.array.attrs)
    about: dict[str, Any] = {
        "path": image.path if is_url(image.path) else str(Path(image.path).resolve()),
        "shape": list(image.array.shape),
        "dtype": str(image.array.dtype),
        "voxel_size": list(image.voxel_size),
        "offset": list(image.offset),
        "unit": image.unit,
    }
    check_complete(image)
    if HASH in attributes:
        about |= {"hash": attributes[HASH]}
    return about


def hash_of(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
