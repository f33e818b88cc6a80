"""A random gamma."""

from __future__ import annotations

import gunpowder as gp
import numpy as np

from synpol.gp.image_augment import ImageAugment
from synpol.gp.randomness import generator


class GammaAugment(ImageAugment):
    """Raise the intensities of a patch to a random power.

    Parameters
    ----------
    image : gp.ArrayKey
        Image to change, intensities 0..1; values below 0 are treated as 0.
    largest : float
        Largest power, 1 or more. The power is drawn between ``1 / largest`` and `largest`,
        uniformly in its logarithm.
    p : float
        Probability that a patch is changed.
    """

    stream = "GammaAugment"

    def __init__(self, image: gp.ArrayKey, largest: float, p: float) -> None:
        super().__init__(image, p if largest > 1 else 0)
        self.largest = largest

    def process(self, batch: gp.Batch, request: gp.BatchRequest) -> None:
        power = self.largest ** generator(self.stream, request).uniform(-1, 1)
        data = batch[self.image].data
        batch[self.image].data = (np.clip(data, 0, None) ** power).astype(data.dtype)
