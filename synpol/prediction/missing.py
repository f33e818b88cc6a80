"""Count the voxels of an image that are NaN or infinite: missing places, where nothing is found."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from synpol.blockwise.records import Index
from synpol.images.image import Image

if TYPE_CHECKING:
    from synpol.blockwise.stage import AnyStage

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BlockRecord:
    """Record of a predicted block.

    Attributes
    ----------
    missing : dict of str to array
        Of voxels that are NaN or infinite their number, ``voxels``, and the ``first`` one in the
        image (z, y, x); empty where there are none.
    sizes : (n,) int64
        Bytes of each file of the block; see `synpol.blockwise.records.Written`.
    """

    missing: dict[str, np.ndarray]
    sizes: np.ndarray


@dataclass(frozen=True)
class _Missing:
    """The part of a record that is about missing voxels; older records have no other."""

    missing: dict[str, np.ndarray]


def places_of(missing: np.ndarray | None, begin: Index) -> dict[str, np.ndarray]:
    """Count the missing voxels of a block, for its record.

    Parameters
    ----------
    missing : (z, y, x) bool array or None
        Whether each voxel is NaN or infinite; None where no voxel is.
    begin : (int, int, int)
        First voxel of the block in the image.
    """
    if missing is None or not missing.any():
        return {}
    first = np.argwhere(missing)[0] + begin
    return {"voxels": missing.sum(), "first": first}


def tell_missing(stage: AnyStage, source: Image) -> None:
    """Say how many voxels of an image are missing, and where the first one is."""
    if source.array.dtype.kind != "f":
        return
    count, places = 0, []
    for record in stage.records(_Missing):
        if record.missing:
            count += int(record.missing["voxels"])
            places.append(tuple(int(v) for v in record.missing["first"]))
    if count:
        _log.warning(
            "%s: %d voxels are NaN or infinite, the first at the voxel %s (z, y, x); they count as "
            "missing, and nothing is found there",
            source.path,
            count,
            min(places),
        )
