"""Tell whether the values of a polarity array are probabilities, and on which scale."""

from __future__ import annotations

import numpy as np

from synpol.errors import InputError
from synpol.polarity import PLAIN

#: largest amount above 1 that a float probability may have by rounding; it counts as 1
ROUNDING = 1e-3
#: a float array whose largest value is above this is taken for 0..255 in memory
SURELY_255 = 2


def counted_channels(sides: bool, exclusive: bool) -> slice:
    """Return which channels of a polarity array count: without sides the union alone."""
    union = PLAIN.index("union")
    return slice(None) if sides or exclusive else slice(union, union + 1)


def as_probabilities(volume: np.ndarray, where: str) -> np.ndarray:
    """Check that a float array holds probabilities, and take what is rounded above 1 for 1.

    Parameters
    ----------
    volume : array
        Any type; only floats are looked at.
    where : str
        Place of the array, for the message.

    Returns
    -------
    array
        The array itself, or a copy of it without values above 1.

    Raises
    ------
    InputError
        A value is NaN, infinite, below 0, or above 1 by more than `ROUNDING`.
    """
    if volume.dtype.kind != "f" or not volume.size:
        return volume
    low, high = float(volume.min()), float(volume.max())
    if low >= 0 and high <= 1:  # neither is so with NaN
        return volume
    if low >= 0 and high <= 1 + ROUNDING:
        return np.minimum(volume, volume.dtype.type(1))
    raise InputError(
        f"{where} hold {low:.9g}..{high:.9g}, but floats have to be probabilities 0..1; "
        + _way_on(low, high)
    )


def _way_on(low: float, high: float) -> str:
    """Say what to do about an array whose floats from `low` to `high` are no probabilities."""
    if not (np.isfinite(low) and np.isfinite(high)):
        return "replace NaN and infinite values, for instance by 0 (no synapse)"
    if low < 0:
        return "if these are logits, apply the sigmoid or the softmax first; else set them to 0"
    if high <= SURELY_255:
        return f"above {1 + ROUNDING} it is more than rounding: clip the values to 0..1 first"
    return "store 0..255 as uint8, or divide by 255"


def check_full_scale(volume: np.ndarray) -> None:
    """Refuse values outside 0..255."""
    if volume.dtype == np.uint8 or not volume.size:
        return
    low, high = volume.min(), volume.max()
    if not (low >= 0 and high <= 255 * (1 + ROUNDING)):
        raise InputError(
            f"the polarity array is {volume.dtype} with values from {low:.9g} to {high:.9g}, where "
            "0..255 is expected for the probability 0..1; scale it to that, or divide it so that "
            "floats in 0..1 come out"
        )
