"""Tell the data of a training run from other data, wherever it lies."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from synpol.errors import InputError
from synpol.images.identity import identity_of
from synpol.images.image import Image, open_image
from synpol.training.volumes import OpenVolume

#: number of places that are read to recognise an image that synpol did not write
_SAMPLES = 16
#: extent of such a place, voxels along each axis
_SAMPLE = 32


def data_state_of(volumes: Iterable[OpenVolume]) -> list[dict[str, Any]]:
    """Describe the images and labels that are trained on.

    Returns
    -------
    list of dict
        For every image what `identity_of` says; and, where synpol did not write the image, a
        ``fingerprint`` of some of its voxels. So for the mask of what is known of it.
    """
    return [_state(i) for volume in volumes for i in (volume.raw, volume.truth)]


def _state(image: Image) -> dict[str, Any]:
    state = identity_of(image)
    if image.options is not None and image.options.known:
        state |= {"known": _state(open_image(image.options.known))}
    return state if "hash" in state else state | {"fingerprint": fingerprint(image)}


def fingerprint(image: Image) -> str:
    """Hash some voxels of an image, at places spread over all of it."""
    digest = hashlib.sha256()
    shape = np.array(image.shape_vx)
    size = np.minimum(shape, _SAMPLE)
    # places of a lattice that no axis repeats: fractions of the golden ratio and its kin
    steps = np.outer(np.arange(_SAMPLES), [0.8191725134, 0.6710436067, 0.5497004779]) % 1
    for corner in np.unique(np.rint(steps * (shape - size)).astype(int), axis=0):
        where = tuple(slice(int(c), int(c + n)) for c, n in zip(corner, size, strict=True))
        values = np.ascontiguousarray(image.array[where])
        digest.update(values.astype(values.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def check_same_data(
    path: Path, stored: Sequence[Mapping[str, Any]], ours: Sequence[Mapping[str, Any]]
) -> None:
    """Refuse to go on with other data; data that only moved is the same.

    Parameters
    ----------
    path : Path
        File of the checkpoint, for the message.
    stored, ours : sequence of mapping
        States of the data of the checkpoint, and of the data of the config; see `data_state_of`.

    Raises
    ------
    InputError
        The data differs, or has moved and cannot be recognised.
    """
    anew = "give another run_dir, or remove that folder to start anew"
    if len(stored) != len(ours):
        raise InputError(
            f"{path} was trained on other data: {len(stored) // 2} volumes, and data.train has "
            f"{len(ours) // 2}; {anew}"
        )
    for before, now in zip(stored, ours, strict=True):
        if _differ(before, now):
            raise InputError(
                f"{path} was trained on other data: what data.train names has been made anew or "
                f"changed since ({now.get('path')}). {anew[0].upper()}{anew[1:]}"
            )
        if _moved_unseen(before, now):
            raise InputError(
                f"{path} was trained on {before.get('path')}, and data.train now names "
                f"{now.get('path')}. Whether both hold the same cannot be told, since this "
                "checkpoint is of an older version. Move the data back to go on, or give another "
                "run_dir to start anew"
            )


def _differ(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether two states are of other content, wherever it lies."""
    nested = [state.get(key, {}) for state in (before, now) for key in ("read_as", "known")]
    if (before.keys() ^ now.keys()) - {"fingerprint"} or not all(
        isinstance(one, Mapping) for one in nested
    ):
        return True
    one, other = ({**state.get("read_as", {}), "known": None} for state in (before, now))
    shared = before.keys() & now.keys() - {"path", "known", "read_as"}
    return (
        one != other
        or any(before[key] != now[key] for key in shared)
        or ("known" in now and _differ(before["known"], now["known"]))
    )


def _moved_unseen(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether something lies elsewhere, and its content is described by one of the two only."""
    told = before.keys() & now.keys() & {"hash", "fingerprint"}
    moved = before.get("path") != now.get("path")
    return (moved and not told) or ("known" in now and _moved_unseen(before["known"], now["known"]))
