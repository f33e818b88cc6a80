"""Flag every patch: are the sides of the synapses in its volume known?"""

from __future__ import annotations

import gunpowder as gp
import numpy as np


class AddSidesKnown(gp.BatchFilter):
    """Provide the flag of one volume; this node belongs after its ``gp.RandomLocation``.

    Parameters
    ----------
    sides_known : gp.ArrayKey
        Flag, provided by this node: a non-spatial uint8 array of shape ``(1,)``, 1 if the labels
        are 2n-1 / 2n, 0 if they mark synapses without sides.
    known : bool
        Value of the flag for this volume.
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
