"""How stored intensities become the 0..1 that the network sees; one rule for training and use."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from synpol.errors import InputError
from synpol.images.image import Image

#: values that the network sees as 0 and 1
type Range = tuple[float, float]
_SAY_RANGE = (
    "Say which values are black and white: data.intensity_range=[low,high], or for an image to "
    "predict: predict.intensity_range=[low,high]"
)


@dataclass(frozen=True)
class Intensity:
    """``value * scale + shift`` in float32; 0 where a value is NaN or infinite.

    Attributes
    ----------
    scale, shift : float
    checked : bool
        Whether values have to come out in 0..1 (floats that declared no range).
    """

    scale: float
    shift: float
    checked: bool = False

    def apply(self, values: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Normalise an array.

        Parameters
        ----------
        values : array
        where : str
            Path of the image, for messages.

        Returns
        -------
        normalised : float32 array
        missing : bool array or None
            Whether each value is NaN or infinite, which counts as 0; None where no value is.

        Raises
        ------
        InputError
            A float image without a declared range leaves 0..1.
        """
        if values.dtype.kind != "f":
            return self._scaled(values.astype(np.float32)), None
        with np.errstate(over="ignore"):  # float64 beyond float32
            plain = values.astype(np.float32)
        if self.checked and plain.size and not (plain.min() >= 0 and plain.max() <= 1):
            _check_unit(plain[np.isfinite(plain)], where)
        result = self._scaled(plain)
        finite = np.isfinite(result)
        if finite.all():
            return result, None
        result[~finite] = 0
        return result, ~finite

    def _scaled(self, values: np.ndarray) -> np.ndarray:
        if self.scale != 1:
            values *= np.float32(self.scale)
        if self.shift:
            values += np.float32(self.shift)
        return values


def _check_unit(finite: np.ndarray, where: str) -> None:
    if finite.size and (finite.min() < 0 or finite.max() > 1):
        raise InputError(
            f"{where} is a float image with values {finite.min():g}..{finite.max():g}; 0..1 is "
            f"expected. {_SAY_RANGE}"
        )


def range_of(image: Image, declared: Range | None) -> Range:
    """Return the values of an image that the network sees as 0 and 1; see `intensity_of`."""
    if declared is not None:
        return declared
    dtype = image.array.dtype
    if dtype in (np.uint8, np.uint16):
        return 0.0, float(np.iinfo(dtype).max)
    if dtype.kind == "f":
        return 0.0, 1.0
    raise InputError(
        f"{image.path} is {dtype}; uint8, uint16 or float in 0..1 is expected. {_SAY_RANGE}"
    )


def intensity_of(image: Image, declared: Range | None) -> Intensity:
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
    low, high = range_of(image, declared)
    if declared is not None:
        return Intensity(1 / (high - low), -low / (high - low))
    return Intensity(1 / high, 0.0, checked=image.array.dtype.kind == "f")
