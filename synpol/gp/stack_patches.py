"""Stack patches to a batch."""

from __future__ import annotations

import gunpowder as gp
import numpy as np


class StackPatches(gp.BatchFilter):
    """Stack patches along a new first axis, as ``gunpowder.Stack`` does.

    There the seed of a patch depends on what the nodes upstream drew for the patch before it. Here
    it depends only on the seed of the batch and on the index of the patch in the batch, so that
    several processes can each prepare their part of a batch.

    Parameters
    ----------
    indices : range
        Indices of the patches to prepare, of those that the whole batch has.
    """

    def __init__(self, indices: range) -> None:
        self.indices = indices

    def provide(self, request: gp.BatchRequest) -> gp.Batch:
        patches = []
        for index in self.indices:
            seed = np.random.SeedSequence([request.random_seed, index]).generate_state(1)
            of_patch = request.copy()
            of_patch._random_seed = int(seed[0])
            patches.append(self.get_upstream_provider().request_batch(of_patch))
        batch = gp.Batch()
        for key in request.array_specs:
            data = np.stack([patch[key].data for patch in patches])
            batch[key] = gp.Array(data, patches[0][key].spec.copy())
        return batch
