"""How stored intensities become the 0..1 that the network sees; one rule for training and use."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from synpol.errors import InputError
from synpol.images.image import Image


@dataclass(frozen=True)
class Intensity:
    """``value * scale + shift`` in float32.

    Attributes
    ----------
    scale, shift : float
    checked : bool
        Whether values have to come out in 0..1 (floats that declared no range).
    """

    scale: float
    shift: float
    checked: bool = False

    def apply(self, values: np.ndarray, where: str) -> np.ndarray:
        """Normalise an array.

        Raises
        ------
        InputError
            A float image without a declared range leaves 0..1, or holds NaN.
        """
        result = values.astype(np.float32)
        if self.checked and result.size:
            low, high = float(result.min()), float(result.max())
            if not (low >= 0 and high <= 1):  # also true for NaN
                raise InputError(
                    f"{where} is a float image with values {low:g}..{high:g}; 0..1 is expected. "
                    "Say which values are black and white: data.intensity_range=[low,high]"
                )
        if self.scale != 1:
            result *= np.float32(self.scale)
        if self.shift:
            result += np.float32(self.shift)
        return result


def intensity_of(image: Image, declared: tuple[float, float] | None) -> Intensity:
    """The rule for an image.

    Parameters
    ----------
    image : Image
    declared : (low, high), optional
        Intensities that become 0 and 1; by default the whole range of an unsigned integer type.

    Raises
    ------
    InputError
        A type that has no natural range and no declared one.
    """
    dtype = image.array.dtype
    if declared is not None:
        low, high = declared
        return Intensity(1 / (high - low), -low / (high - low))
    if dtype in (np.uint8, np.uint16):
        return Intensity(1 / np.iinfo(dtype).max, 0.0)
    if dtype.kind == "f":
        return Intensity(1.0, 0.0, checked=True)
    raise InputError(
        f"{image.path} is {dtype}; uint8, uint16 or float in 0..1 is expected, or say which values "
        "are black and white: data.intensity_range=[low,high]"
    )
