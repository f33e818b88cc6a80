"""The base of the augmentations that change some sections of an image."""

from __future__ import annotations

from abc import ABC, abstractmethod

import gunpowder as gp
import numpy as np

from synpol.gp.image_augment import ImageAugment
from synpol.gp.randomness import generator


class SectionsAugment(ImageAugment, ABC):
    """Change some sections of an image, each by itself, with some probability.

    Parameters
    ----------
    image : gp.ArrayKey
        Image to change, ``(z, y, x)``.
    most : int
        Largest number of sections changed in a patch.
    p : float
        Probability that a patch is changed.
    """

    def __init__(self, image: gp.ArrayKey, most: int, p: float) -> None:
        super().__init__(image, p if most else 0)
        self.most = most

    def process(self, batch: gp.Batch, request: gp.BatchRequest) -> None:
        data = batch[self.image].data
        rng = generator(self.stream, request)
        count = min(len(data), int(rng.integers(1, self.most + 1)))
        for index in rng.choice(len(data), count, replace=False):
            data[index] = self.changed(data[index], rng)

    @abstractmethod
    def changed(self, section: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return a changed copy of a section, ``(y, x)``, of the same shape and dtype."""
