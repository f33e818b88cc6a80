"""Size and corner of voxels from a matrix of directions, as NIfTI and NRRD store them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from synpol.errors import InputError
from synpol.formats.calibration import Calibration, rounded

#: what rounding may leave beside the direction of an axis
_SKEW = 1e-4


def world_axes(directions: np.ndarray) -> list[int] | None:
    """Return the world axis along which each stored axis runs, None where they are oblique.

    Parameters
    ----------
    directions : (3, 3) array
        Row i is the step in the world from one voxel to the next along stored axis i.
    """
    size = np.abs(directions)
    axes = [int(a) for a in size.argmax(axis=1)]
    rest = size.sum(axis=1) - size.max(axis=1)
    if sorted(axes) != [0, 1, 2] or (rest > _SKEW * size.max(axis=1)).any():
        return None
    return axes


def calibration_of(
    what: str,
    directions: np.ndarray,
    origin: Sequence[float] | None,
    unit: str | None,
    where: str,
) -> Calibration:
    """Return voxel size and corner of the first voxel, along world axes z, y, x.

    Parameters
    ----------
    what : str
        File for messages.
    directions : (3, 3) array
        As in `world_axes`; world axes are x, y, z.
    origin : (x, y, z), optional
        Centre of the first voxel.
    unit : str, optional
        None where the file says no unit.
    where : str
        Place in the file for messages.

    Raises
    ------
    InputError
        The volume is oblique, or mirrored.
    """
    axes = world_axes(directions)
    if axes is None:
        raise InputError(
            f"{what} is oblique: {where} says the directions {directions.tolist()}; resample it "
            "along its axes, or say `voxel_size` in the config with `ignore_metadata: true`"
        )
    steps = np.zeros(3)
    steps[axes] = directions[np.arange(3), axes]
    if not unit and (np.abs(steps) == 1).all():  # what is written where nobody set a scale
        return Calibration(where=where)
    signs = np.sign(steps)
    if tuple(signs) == (-1, -1, 1):  # left-posterior-superior told in right-anterior-superior
        flip = signs
    elif (signs > 0).all():
        flip = np.ones(3)
    else:
        raise InputError(
            f"{what} has mirrored axes: {where} says the steps {steps.tolist()} along x, y, z; "
            "flip the volume, or say `voxel_size` in the config with `ignore_metadata: true` to "
            "take the voxels as they are stored"
        )
    size = [rounded(v) for v in np.abs(steps)]
    corner = None
    if origin is not None:
        centre = np.asarray(origin, float) * flip
        corner = [rounded(c - s / 2) for c, s in zip(centre, size, strict=True)][::-1]
    found = Calibration.of(size[::-1], unit, where, corner)
    if not unit:
        return Calibration(found.voxel_size, found.offset, None, where)
    return found
