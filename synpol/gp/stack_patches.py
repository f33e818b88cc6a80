"""Patches stacked to a batch."""

from __future__ import annotations

import gunpowder as gp
import numpy as np


class StackPatches(gp.BatchFilter):
    """Stack patches along a new first axis, as ``gunpowder.Stack`` does.

    There a patch's seed depends on what the nodes upstream drew for the patch before it. Here it
    is made of the batch's seed and the patch's place in the batch alone, so that several processes
    can each prepare their part of a batch.

    Parameters
    ----------
    places : range
        Which patches of the batch are wanted.
    """

    def __init__(self, places: range) -> None:
        self.places = places

    def provide(self, request: gp.BatchRequest) -> gp.Batch:
        patches = []
        for place in self.places:
            seed = np.random.SeedSequence([request.random_seed, place]).generate_state(1)
            of_patch = request.copy()
            of_patch._random_seed = int(seed[0])
            patches.append(self.get_upstream_provider().request_batch(of_patch))
        batch = gp.Batch()
        for key in request.array_specs:
            data = np.stack([patch[key].data for patch in patches])
            batch[key] = gp.Array(data, patches[0][key].spec.copy())
        return batch
