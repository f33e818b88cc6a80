"""Gamma of an image."""

from __future__ import annotations

import gunpowder as gp
import numpy as np

from synpol.gp.image_augment import ImageAugment
from synpol.gp.randomness import generator


class GammaAugment(ImageAugment):
    """Raise intensities 0..1 to a random power, the same for a patch.

    Parameters
    ----------
    image : gp.ArrayKey
        Values below 0 count as 0.
    largest : float
        The power is drawn from ``1 / largest .. largest``, evenly in its logarithm.
    p : float
        Probability that a patch is changed.
    """

    def __init__(self, image: gp.ArrayKey, largest: float, p: float) -> None:
        super().__init__(image, p if largest > 1 else 0)
        self.largest = largest

    def process(self, batch: gp.Batch, request: gp.BatchRequest) -> None:
        power = self.largest ** generator(self, request, 1).uniform(-1, 1)
        data = batch[self.image].data
        batch[self.image].data = (np.clip(data, 0, None) ** power).astype(data.dtype)
