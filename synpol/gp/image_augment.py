"""The base of the augmentations that change an image and nothing else."""

from __future__ import annotations

from typing import ClassVar

import gunpowder as gp

from synpol.gp.randomness import leaves_alone


class ImageAugment(gp.BatchFilter):
    """Change an image, and nothing else, with some probability.

    A subclass names its `stream` and changes ``batch[self.image]`` in `process`.

    Parameters
    ----------
    image : gp.ArrayKey
        Image to change.
    p : float
        Probability that a patch is changed.

    Attributes
    ----------
    stream : str
        Name of the stream of random numbers. It must stay as it is when the class is renamed, and
        no two classes may share one.
    """

    stream: ClassVar[str]

    def __init__(self, image: gp.ArrayKey, p: float) -> None:
        self.image, self.p = image, p

    def setup(self) -> None:
        self.enable_autoskip()
        self.updates(self.image, self.spec[self.image])

    def skip_node(self, request: gp.BatchRequest) -> bool:
        return leaves_alone(self.stream, request, self.p)

    def prepare(self, request: gp.BatchRequest) -> gp.BatchRequest:
        needed = gp.BatchRequest()
        needed[self.image] = request[self.image].copy()
        return needed
