"""Make the sides of synapses from links: the labels that a network learns from.

A link is a point on the pre side and a point on the post side. With neurons, a side is the part of
its neuron that lies near the contact of the two neurons, close to the link; with clefts, near the
cleft. Without neurons it is half of a ball between the two points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt

from synpol.polarity import post_label, pre_label

#: what became of a link
MADE, OUTSIDE, NO_NEURON, WITHIN, APART = range(5)
STATUS = (
    "made",
    "outside the image",
    "a point in no neuron",
    "both points in one neuron",
    "no contact of the two neurons near the link",
)


@dataclass(frozen=True)
class SideRule:
    """How far sides reach; nm.

    Attributes
    ----------
    radius : float
        Distance from the middle of a link within which contact counts; radius of the ball where
        there are no neurons.
    thickness : float
        Depth of a side, from the contact.
    gap : float
        Largest distance between two neurons that are in contact.
    """

    radius: float
    thickness: float
    gap: float

    @property
    def extent(self) -> float:
        """Largest distance of a side's voxel from the middle of its link."""
        return self.radius + self.thickness + self.gap


@dataclass(frozen=True)
class Site:
    """The links of one synapse.

    Attributes
    ----------
    number : int
        Number of the synapse.
    pre, post : (n, 3) float64
        Ends of its links, nm, z, y, x.
    pre_id, post_id : (n,) int64
        Neurons at these ends; unused where there are no neurons.
    """

    number: int
    pre: np.ndarray
    post: np.ndarray
    pre_id: np.ndarray
    post_id: np.ndarray

    @property
    def middle(self) -> np.ndarray:
        """Middle of each link, nm; (n, 3)."""
        return (self.pre + self.post) / 2


def sides_of(
    site: Site,
    rule: SideRule,
    begin_nm: Sequence[float],
    voxel_size: Sequence[float],
    shape: Sequence[int],
    neurons: np.ndarray | None,
    clefts: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Make the sides of one synapse in a box that holds all of it.

    Parameters
    ----------
    site : Site
        Links of the synapse.
    rule : SideRule
        How far its sides reach.
    begin_nm : 3 floats
        Corner of the box.
    voxel_size : 3 floats
        Voxel size, nm.
    shape : 3 ints
        Shape of the box, voxels.
    neurons, clefts : (z, y, x) arrays of integers, or None
        Neurons and clefts in the box.

    Returns
    -------
    labels : (z, y, x) uint64
        2n-1 on the pre side, 2n on the post side.
    made : (links,) bool
        Whether each link has its sides.
    """
    size = np.array(voxel_size)
    axes = [b + (np.arange(n) + 0.5) * v for b, n, v in zip(begin_nm, shape, size, strict=True)]
    place = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    if neurons is None:
        return _halves(site, rule, place)
    pre, post = np.zeros(tuple(shape), bool), np.zeros(tuple(shape), bool)
    made = np.zeros(len(site.pre), bool)
    for k, middle in enumerate(site.middle):
        ours, other = neurons == site.pre_id[k], neurons == site.post_id[k]
        near = np.linalg.norm(place - middle, axis=-1) <= rule.radius
        if clefts is not None:
            contact = near & (clefts != 0)
        else:
            contact = near & ours & _within(other, rule.gap, size)
            contact |= near & other & _within(ours, rule.gap, size)
        depth = rule.thickness + (rule.gap if clefts is not None else 0.0)
        close = _within(contact, depth, size)
        first, second = ours & close, other & close
        made[k] = first.any() and second.any()
        if made[k]:
            pre |= first
            post |= second
    labels = np.zeros(tuple(shape), np.uint64)
    labels[pre] = pre_label(np.uint64(site.number))
    labels[post & ~pre] = post_label(np.uint64(site.number))
    return labels, made


def _within(mask: np.ndarray, distance: float, voxel_size: np.ndarray) -> np.ndarray:
    """Find the voxels whose distance to a mask is at most so many nm."""
    result = np.zeros(mask.shape, bool)
    if not mask.any():
        return result
    box = []
    for axis, (length, size) in enumerate(zip(mask.shape, voxel_size, strict=True)):
        there = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        more = int(distance // size) + 1
        box.append(slice(max(0, there[0] - more), min(length, there[-1] + 1 + more)))
    away = distance_transform_edt(~mask[tuple(box)], sampling=voxel_size)
    result[tuple(box)] = away <= distance
    return result


def _halves(site: Site, rule: SideRule, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Make two halves of a ball for each link; a voxel belongs to the link whose middle is near."""
    nearest = np.full(place.shape[:-1], np.inf)
    labels = np.zeros(place.shape[:-1], np.uint64)
    for pre, post, middle in zip(site.pre, site.post, site.middle, strict=True):
        away = np.linalg.norm(place - middle, axis=-1)
        mine = (away <= rule.radius) & (away < nearest)
        nearest[mine] = away[mine]
        is_post = (place - middle) @ (post - pre) > 0
        number = np.uint64(site.number)
        labels[mine] = np.where(is_post[mine], post_label(number), pre_label(number))
    return labels, np.ones(len(site.pre), bool)
