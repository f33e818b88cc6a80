"""Turn the labels of a patch into the target of the network and a weight for every voxel.

The weights are those of the EM-R50 recipe. Let f be the clipped fraction of foreground in a channel
of the patch. The rarer of foreground and background gets the weight max(f, 1-f) / min(f, 1-f), the
other one 1. A channel without foreground gets 1 everywhere. Voxels that nobody looked at have the
weight 0, and do not count in f.
"""

from __future__ import annotations

import gunpowder as gp
import numpy as np

from synpol.polarity import PLAIN, SIDES_UNKNOWN, UNKNOWN, seg_to_polarity


class AddPolarityTarget(gp.BatchFilter):
    """Provide the polarity target of a label patch and the voxel weights of its loss.

    Parameters
    ----------
    labels : gp.ArrayKey
        Labels, ``(z, y, x)``.
    target : gp.ArrayKey
        Target, provided by this node: ``(3, z, y, x)`` float32, channels pre, post, union; for an
        exclusive network classes, ``(z, y, x)`` int64, 0 background, 1 pre, 2 post.
    weights : gp.ArrayKey
        Weights, provided by this node: float32 in the shape of the target.
    sides_known : gp.ArrayKey, optional
        Non-spatial flag of the patch. Where it is 0, the labels mark the union only: its channel is
        trained as usual, and the sides get the weight 0.
    exclusive : bool
        Whether the network is exclusive.
    fraction_clip : (float, float)
        Bounds of the fraction of foreground.
    weight_max : float
        Upper bound of a weight.
    marked : bool
        Whether labels may be `UNKNOWN` or `SIDES_UNKNOWN` of `synpol.polarity`.
    """

    def __init__(
        self,
        labels: gp.ArrayKey,
        target: gp.ArrayKey,
        weights: gp.ArrayKey,
        sides_known: gp.ArrayKey | None = None,
        exclusive: bool = False,
        fraction_clip: tuple[float, float] = (0.05, 0.95),
        weight_max: float = 20.0,
        marked: bool = False,
    ) -> None:
        self.labels = labels
        self.target = target
        self.weights = weights
        self.sides_known = sides_known
        self.exclusive = exclusive
        self.fraction_clip = fraction_clip
        self.weight_max = weight_max
        self.marked = marked

    def setup(self) -> None:
        spec = self.spec[self.labels].copy()
        spec.interpolatable = False
        spec.dtype = np.int64 if self.exclusive else np.float32
        self.provides(self.target, spec)
        spec = spec.copy()
        spec.dtype = np.float32
        self.provides(self.weights, spec)
        self.enable_autoskip()

    def prepare(self, request: gp.BatchRequest) -> gp.BatchRequest:
        wanted = request[self.target] if self.target in request else request[self.weights]
        dependencies = gp.BatchRequest()
        dependencies[self.labels] = gp.ArraySpec(roi=wanted.roi)
        if self.sides_known is not None:
            dependencies[self.sides_known] = gp.ArraySpec(nonspatial=True)
        return dependencies

    def process(self, batch: gp.Batch, request: gp.BatchRequest) -> gp.Batch:
        labels = batch[self.labels]
        known = self.sides_known is None or bool(batch[self.sides_known].data[0])
        target, weights = polarity_target(
            labels.data, known, self.exclusive, self.fraction_clip, self.weight_max, self.marked
        )
        outputs = gp.Batch()
        for key, data in ((self.target, target), (self.weights, weights)):
            spec = self.spec[key].copy()
            spec.roi = labels.spec.roi
            outputs[key] = gp.Array(data, spec)
        return outputs


def polarity_target(
    labels: np.ndarray,
    sides_known: bool = True,
    exclusive: bool = False,
    fraction_clip: tuple[float, float] = (0.05, 0.95),
    weight_max: float = 20.0,
    marked: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the target and the voxel weights of a label patch.

    Parameters
    ----------
    labels : (z, y, x) array of integers
        Labels: 2n-1 / 2n, or not 0 on synapses where the sides are unknown.
    sides_known, exclusive, fraction_clip, weight_max, marked
        As in `AddPolarityTarget`.

    Returns
    -------
    target : array
        ``(3, z, y, x)`` float32, or ``(z, y, x)`` int64 classes.
    weights : float32 array
        Weights in the shape of the target.
    """
    lost, unsided = (
        (labels == mark) if marked else np.zeros(labels.shape, bool)
        for mark in (UNKNOWN, SIDES_UNKNOWN)
    )
    if marked:
        labels = np.where(lost | unsided, labels.dtype.type(0), labels)
    target = seg_to_polarity(labels, exclusive)
    if exclusive:
        return target, (~(lost | unsided)).astype(np.float32)
    if not sides_known:
        PLAIN.sides(target)[:] = 0
    PLAIN.union(target)[unsided] = 1
    known = np.repeat(~lost[None], len(target), axis=0)
    PLAIN.sides(known)[:] &= ~unsided
    weights = np.ones(target.shape, np.float32)
    for channel, weight, seen in zip(target, weights, known, strict=True):
        fraction = channel.mean() if not marked else channel[seen].mean() if seen.any() else 0
        if fraction in (0, 1):
            continue
        f = np.clip(fraction, *fraction_clip)
        rare = channel == (1 if f <= 0.5 else 0)
        weight[rare] = min(max(f, 1 - f) / min(f, 1 - f), weight_max)
    weights[~known] = 0
    if not sides_known:
        PLAIN.sides(weights)[:] = 0
    return target, weights
