"""A flag that travels with every patch: does its volume know the sides of its synapses?"""

from __future__ import annotations

import gunpowder as gp
import numpy as np


class AddSidesKnown(gp.BatchFilter):
    """Provide the flag of one volume; belongs downstream of its ``gp.RandomLocation``.

    Parameters
    ----------
    sides_known : gp.ArrayKey
        Provided: a non-spatial array of shape ``(1,)``, 1 where labels are 2n-1 / 2n, 0 where they
        mark synapses without sides.
    known : bool
        The flag of this volume.
    """

    def __init__(self, sides_known: gp.ArrayKey, known: bool) -> None:
        self.sides_known = sides_known
        self.known = known

    def setup(self) -> None:
        self.provides(self.sides_known, gp.ArraySpec(nonspatial=True))
        self.enable_autoskip()

    def prepare(self, request: gp.BatchRequest) -> gp.BatchRequest:
        return gp.BatchRequest()

    def process(self, batch: gp.Batch, request: gp.BatchRequest) -> gp.Batch:
        flag = np.array([self.known], dtype=np.uint8)
        outputs = gp.Batch()
        outputs[self.sides_known] = gp.Array(flag, gp.ArraySpec(nonspatial=True))
        return outputs
