"""Sections that are blurred by motion."""

from __future__ import annotations

import gunpowder as gp
import numpy as np
from scipy.ndimage import uniform_filter1d

from synpol.gp.sections_augment import SectionsAugment


class MotionBlurAugment(SectionsAugment):
    """Blur sections along y or x, as happens when the microscope's stage moves.

    Parameters
    ----------
    image : gp.ArrayKey
        Image to change, ``(z, y, x)``.
    most : int
        Largest number of sections that are blurred in a patch.
    p : float
        Probability that a patch is changed.
    length : int
        Length of the blur in voxels.
    """

    stream = "MotionBlur"

    def __init__(self, image: gp.ArrayKey, most: int, p: float, length: int = 11) -> None:
        super().__init__(image, most, p)
        self.length = length

    def changed(self, section: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        axis = int(rng.integers(2))
        return uniform_filter1d(section, self.length, axis=axis, mode="reflect")
