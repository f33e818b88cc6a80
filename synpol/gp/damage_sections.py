"""Sections that are missing, wholly or in part, and sections that are blurred."""

from __future__ import annotations

from abc import ABC, abstractmethod

import gunpowder as gp
import numpy as np
from scipy.ndimage import uniform_filter1d

from synpol.gp.image_augment import ImageAugment
from synpol.gp.randomness import generator


class _Sections(ImageAugment, ABC):
    """Changes some sections of an image."""

    def __init__(self, image: gp.ArrayKey, most: int, p: float) -> None:
        super().__init__(image, p if most else 0)
        self.most = most

    def process(self, batch: gp.Batch, request: gp.BatchRequest) -> None:
        data = batch[self.image].data
        rng = generator(self, request, 1)
        count = min(len(data), int(rng.integers(1, self.most + 1)))
        for index in rng.choice(len(data), count, replace=False):
            data[index] = self.changed(data[index], rng)

    @abstractmethod
    def changed(self, section: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A section as it becomes."""


class MissingSections(_Sections):
    """Fill sections with one grey value, wholly or to one side of a random line.

    The labels stay: what is hidden is to be inferred from the sections beside it.

    Parameters
    ----------
    image : gp.ArrayKey
        ``(z, y, x)``, values 0..1.
    most : int
        Sections of a patch at most.
    p : float
        Probability that a patch is changed.
    whole : float
        Probability that a section is missing as a whole.

    References
    ----------
    Lee et al., arXiv:1706.00120, section 3.1.
    """

    def __init__(self, image: gp.ArrayKey, most: int, p: float, whole: float = 0.5) -> None:
        super().__init__(image, most, p)
        self.whole = whole

    def changed(self, section: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        fill = rng.random()
        if rng.random() < self.whole:
            return np.full_like(section, fill)
        angle, share = rng.uniform(0, 2 * np.pi), rng.uniform(0.25, 0.75)
        y, x = np.indices(section.shape, dtype=np.float32)
        along = np.sin(angle) * y + np.cos(angle) * x
        return np.where(along < np.quantile(along, share), fill, section).astype(section.dtype)


class MotionBlur(_Sections):
    """Blur sections along y or x, as when the stage moved.

    Parameters
    ----------
    image : gp.ArrayKey
        ``(z, y, x)``.
    most : int
        Sections of a patch at most.
    p : float
        Probability that a patch is changed.
    length : int
        Of the blur, voxels.
    """

    def __init__(self, image: gp.ArrayKey, most: int, p: float, length: int = 11) -> None:
        super().__init__(image, most, p)
        self.length = length

    def changed(self, section: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        axis = int(rng.integers(2))
        return uniform_filter1d(section, self.length, axis=axis, mode="reflect")
