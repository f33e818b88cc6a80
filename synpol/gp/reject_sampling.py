"""Reject patches with too little foreground, as the EM-R50 recipe does.

A candidate is judged by its labels alone, before its image is read and before anything costly is
done to it. gunpowder's own ``Reject`` draws the same patch again and again if the request has a
seed. Here every attempt derives its own seed from that of the request, so the accepted patch
depends on the request's seed alone, and a run can be repeated and resumed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import gunpowder as gp
import numpy as np

from synpol.errors import InputError
from synpol.polarity import UNKNOWN

logger = logging.getLogger(__name__)


class RejectSampling(gp.BatchFilter):
    """Draw a patch again, with probability `p`, while it has too little foreground.

    This node belongs after ``gp.RandomLocation``, and after ``gp.RandomProvider`` if there are
    several volumes.

    Parameters
    ----------
    labels : gp.ArrayKey
        Labels, ``(z, y, x)``. Every voxel that is not 0 is foreground, unless nobody looked at it.
    size_thres : int
        Foreground voxels that a patch should have; 0 accepts everything.
    p : float
        Probability that a poorer patch is rejected.
    draws : gp.ArrayKey, optional
        Number of patches drawn for this one, provided by this node: a non-spatial int64 array of
        shape ``(1,)``. Its inverse is the acceptance rate.
    patch : 3 ints, optional
        Size in voxels of the middle of the request in which foreground is counted; by default the
        whole request. It is needed if nodes downstream request more than the patch and crop it.
    patience : int
        Number of draws in a row below `size_thres` after which the node gives up (if `p` is 1) or
        warns once.
    marked : bool
        Whether labels may be `UNKNOWN` of `synpol.polarity`. Patches of nothing else are always
        rejected.

    Raises
    ------
    InputError
        A parameter is out of its range; or, when a batch is requested, `p` is 1 and `patience`
        draws in a row found no patch with `size_thres` foreground voxels; or so many found none
        with a known voxel.
    """

    def __init__(
        self,
        labels: gp.ArrayKey,
        size_thres: int,
        p: float = 0.95,
        draws: gp.ArrayKey | None = None,
        patch: Sequence[int] | None = None,
        patience: int = 5000,
        marked: bool = False,
    ) -> None:
        if not 0 <= p <= 1:
            raise InputError(f"reject_sampling.p is {p}; a probability in 0..1 is expected")
        if size_thres < 0:
            raise InputError(f"reject_sampling.size_thres is {size_thres}; 0 or more is expected")
        self.labels = labels
        self.size_thres = size_thres
        self.p = p
        self.draws = draws
        self.patch = patch
        self.patience = patience
        self.marked = marked
        self.poor_in_a_row = 0
        self.largest = 0
        self.unknown_in_a_row = 0

    def setup(self) -> None:
        if self.labels not in self.spec:
            raise InputError(f"RejectSampling needs {self.labels}, which nothing upstream provides")
        if self.draws is not None:
            self.provides(self.draws, gp.ArraySpec(nonspatial=True))

    def provide(self, request: gp.BatchRequest) -> gp.Batch:
        draws_wanted = self.draws is not None and self.draws in request
        self.remove_provided(request)
        upstream = self.get_upstream_provider()
        seed, draw = request.random_seed, 0
        while True:
            attempt = np.random.SeedSequence([seed, draw]).generate_state(2)
            draw += 1
            candidate = request.copy()
            candidate._random_seed = int(attempt[0])
            wanted = self.size_thres > 0 or self.marked
            if not wanted or self.labels not in request:
                break
            probe = gp.BatchRequest(random_seed=int(attempt[0]))
            probe[self.labels] = request[self.labels].copy()
            patch = self._inner(upstream.request_batch(probe)[self.labels].data)
            if self.marked and not self._has_known(patch):
                continue
            foreground = self._count(patch)
            if foreground >= self.size_thres:
                self.poor_in_a_row = 0
                break
            self._note_poor(foreground)
            if attempt[1] / 2**32 >= self.p:
                break
        batch = upstream.request_batch(candidate)
        if draws_wanted:
            count = np.array([draw], dtype=np.int64)
            batch[self.draws] = gp.Array(count, gp.ArraySpec(nonspatial=True))
        return batch

    def _inner(self, labels: np.ndarray) -> np.ndarray:
        if self.patch is None:
            return labels
        begins = [(n - p) // 2 for n, p in zip(labels.shape, self.patch, strict=True)]
        return labels[tuple(slice(b, b + p) for b, p in zip(begins, self.patch, strict=True))]

    def _count(self, labels: np.ndarray) -> int:
        if self.marked:
            labels = (labels != 0) & (labels != UNKNOWN)
        return int(np.count_nonzero(labels))

    def _has_known(self, labels: np.ndarray) -> bool:
        if (labels != UNKNOWN).any():
            self.unknown_in_a_row = 0
            return True
        self.unknown_in_a_row += 1
        if self.unknown_in_a_row == self.patience:
            raise InputError(
                f"in {self.patience} draws in a row no patch had a voxel that is known; give the "
                "part of the volume with labels (offset and shape), or a larger train.patch"
            )
        return False

    def _note_poor(self, foreground: int) -> None:
        self.poor_in_a_row += 1
        self.largest = max(self.largest, foreground)
        if self.poor_in_a_row != self.patience:
            return
        message = (
            f"in {self.patience} draws in a row no patch had reject_sampling.size_thres = "
            f"{self.size_thres} foreground voxels; the largest count was {self.largest}"
        )
        if self.p == 1:
            raise InputError(f"{message}. Lower size_thres, enlarge train.patch, or set p below 1")
        logger.warning("%s; patches are accepted by chance alone (1 - p = %g)", message, 1 - self.p)
