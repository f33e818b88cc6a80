"""Describe and hash what a result depends on, so that a rerun notices a change."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from synpol.files import is_url
from synpol.images.claim import HASH, check_complete, is_ours
from synpol.images.image import Image, open_image


def identity_of(image: Image) -> dict[str, Any]:
    """Describe the state of an image, to be hashed with whatever else a result depends on.

    An array that synpol wrote carries the hash of what it was made from, which changes with its
    content. Of an array of others only the path and the metadata are known.

    Returns
    -------
    dict
        Path, shape, dtype, voxel size, offset, unit, what a config says about reading it, and the
        hash where there is one.

    Raises
    ------
    InputError
        synpol began to write the array and did not finish.
    """
    check_complete(image)
    about: dict[str, Any] = {
        "path": image.path if is_url(image.path) else str(Path(image.path).resolve()),
        "shape": list(image.array.shape),
        "dtype": str(image.array.dtype),
        "voxel_size": list(image.voxel_size),
        "offset": list(image.offset),
        "unit": image.unit,
    }
    if image.options is not None:
        told = image.options.model_dump(mode="json")
        read_as = {key: value for key, value in told.items() if key not in ("path", "anonymous")}
        if read_as or not image.options.anonymous:
            about["read_as"] = read_as
        if image.options.known:
            about["known"] = identity_of(open_image(image.options.known))
    return about | {"hash": image.array.attrs[HASH]} if is_ours(image.array) else about


def hash_of(content: object) -> str:
    """Return the SHA-256 of anything that JSON can hold, as 64 hexadecimal digits.

    The order of keys does not matter; that of lists does.
    """
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
