"""What augmentations of an image alone share."""

from __future__ import annotations

import gunpowder as gp

from synpol.gp.randomness import leaves_alone


class ImageAugment(gp.BatchFilter):
    """Changes an image, and nothing else, with some probability.

    Parameters
    ----------
    image : gp.ArrayKey
    p : float
        Probability that a patch is changed.
    """

    def __init__(self, image: gp.ArrayKey, p: float) -> None:
        self.image, self.p = image, p

    def setup(self) -> None:
        self.enable_autoskip()
        self.updates(self.image, self.spec[self.image])

    def skip_node(self, request: gp.BatchRequest) -> bool:
        return leaves_alone(self, request, self.p)

    def prepare(self, request: gp.BatchRequest) -> gp.BatchRequest:
        needed = gp.BatchRequest()
        needed[self.image] = request[self.image].copy()
        return needed
