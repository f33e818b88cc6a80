"""Gamma of an image."""

from __future__ import annotations

import gunpowder as gp
import numpy as np

from synpol.gp.randomness import generator, leaves_alone


class GammaAugment(gp.BatchFilter):
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
        self.image, self.largest, self.p = image, largest, p

    def setup(self) -> None:
        self.enable_autoskip()
        self.updates(self.image, self.spec[self.image])

    def skip_node(self, request: gp.BatchRequest) -> bool:
        return self.largest == 1 or leaves_alone(self, request, self.p)

    def prepare(self, request: gp.BatchRequest) -> gp.BatchRequest:
        needed = gp.BatchRequest()
        needed[self.image] = request[self.image].copy()
        return needed

    def process(self, batch: gp.Batch, request: gp.BatchRequest) -> None:
        power = self.largest ** generator(self, request, 1).uniform(-1, 1)
        data = batch[self.image].data
        batch[self.image].data = (np.clip(data, 0, None) ** power).astype(data.dtype)
