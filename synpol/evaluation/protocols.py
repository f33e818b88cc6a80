"""How others score synapses, beside `synpol.evaluation.scores`: by the name of the protocol.

Both work on label volumes in memory, as the programs do that they follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cc3d
import numpy as np
from scipy.ndimage import binary_dilation, generate_binary_structure
from scipy.optimize import linear_sum_assignment

from synpol.errors import InputError
from synpol.evaluation.matching import Contingency, Matching
from synpol.polarity import is_pre, post_label, pre_label, synapse_of


@dataclass(frozen=True)
class BothWays:
    """Counts of `lin2020`: each direction is counted by itself, nothing is matched one to one.

    Attributes
    ----------
    precision, recall, f1 : float
        Of the counts; 0 where there is nothing to divide by.
    predicted_found, predicted : int
        Predicted objects that some true one meets well enough, and all of them.
    truth_found, truth : int
        The same of true objects.
    """

    precision: float
    recall: float
    f1: float
    predicted_found: int
    predicted: int
    truth_found: int
    truth: int


def lin2020(
    predicted: np.ndarray,
    truth: np.ndarray,
    iou: float = 0.2,
    min_size: int = 300,
    margin: int = 14,
) -> BothWays:
    """Score whole synapses as the older EM-R50 evaluator does.

    Sections at both ends are masked out of both volumes. The sides of a predicted synapse, whatever
    their numbers, become one mask, which is dilated by a voxel along every axis and labelled anew
    (26 neighbours); objects of fewer than `min_size` voxels are dropped. A predicted object counts
    when its IoU with some true synapse (both sides together, not dilated) is above `iou`; a true
    one when its IoU with some predicted object is.

    Parameters
    ----------
    predicted, truth : (z, y, x) arrays of unsigned integers
        2n-1 on the pre side of synapse n, 2n on its post side.
    iou : float
        That evaluator takes 0.2 by default.
    min_size : int
        Voxels.
    margin : int
        Sections at each end.

    Returns
    -------
    BothWays

    Raises
    ------
    InputError
        Different shapes, or no section is left between the margins.

    References
    ----------
    "Multi-CPU Implementation of Synapse Evaluation", Zudi Lin, 2019: the script that came with the
    EM-R50 data of Lin et al., "Two Stream Active Query Suggestion for Active Learning in
    Connectomics", ECCV 2020. Its labels are cut to 16 bits; these are not.
    """
    if predicted.shape != truth.shape:
        raise InputError(f"predicted has the shape {predicted.shape}, truth {truth.shape}")
    if len(predicted) <= 2 * margin:
        raise InputError(
            f"lin2020 masks {margin} sections at each end, but there are {len(predicted)} in all; "
            "choose a smaller evaluate.lin2020_margin"
        )
    inside = slice(margin, len(predicted) - margin)
    mask = np.zeros(predicted.shape, dtype=bool)
    mask[inside] = predicted[inside] != 0
    objects = cc3d.connected_components(
        binary_dilation(mask, generate_binary_structure(3, 1)).view(np.uint8), connectivity=26
    )
    sizes = np.bincount(objects.ravel())
    objects = np.where((sizes >= min_size)[objects], objects, 0)
    number = np.zeros(truth.shape, np.uint64)
    number[inside] = synapse_of(truth[inside])
    table = Contingency.of([(objects, number)])
    good = table.iou() > iou
    found = len(np.unique(table.i[good])), len(np.unique(table.j[good]))
    there = len(table.predicted), len(table.truth)
    precision, recall = (f / n if n else 0.0 for f, n in zip(found, there, strict=True))
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return BothWays(precision, recall, f1, found[0], there[0], found[1], there[1])


def cremi_partners(
    predicted: np.ndarray,
    truth: np.ndarray,
    segmentation: np.ndarray,
    voxel_size: Sequence[float],
    threshold: float = 400.0,
) -> Matching:
    """Score pairs of partners as the CREMI challenge does.

    Synapses with both sides are matched one to one at the least cost, which is the mean distance of
    the pre ends and of the post ends; it is prohibitive where either is above `threshold`, or where
    the two do not join the same pre and post segments. An end is the voxel of its side that lies
    nearest to the side's centroid (the challenge has one annotated point instead).

    Parameters
    ----------
    predicted, truth : (z, y, x) arrays of unsigned integers
        2n-1 on the pre side of synapse n, 2n on its post side.
    segmentation : (z, y, x) array of integers
        Neurons.
    voxel_size : 3 floats
        nm, z, y, x.
    threshold : float
        nm.

    Returns
    -------
    Matching
        Its pairs are the predicted and the true number and the mean distance of their ends in nm.
        Synapses without both sides are not counted; where there are none, scores are 0.

    Raises
    ------
    InputError
        Different shapes.

    References
    ----------
    https://cremi.org/metrics, and ``synaptic_partners.py`` of cremi_python.
    """
    for name, array in (("truth", truth), ("segmentation", segmentation)):
        if array.shape != predicted.shape:
            raise InputError(f"predicted has the shape {predicted.shape}, {name} {array.shape}")
    mine, theirs = side_ends(predicted, voxel_size), side_ends(truth, voxel_size)
    segments = [np.array([segmentation[tuple(e.T)] for e in x.ends]) for x in (mine, theirs)]
    size = np.array(voxel_size)
    distance = [
        np.linalg.norm((a[:, None] - b[None]) * size, axis=2)
        for a, b in zip(mine.ends, theirs.ends, strict=True)
    ]
    possible = (distance[0] <= threshold) & (distance[1] <= threshold)
    possible &= (segments[0][:, :, None] == segments[1][:, None, :]).all(axis=0)
    cost = np.where(possible, (distance[0] + distance[1]) / 2, 2 * threshold)
    pairs = [
        (int(mine.number[i]), int(theirs.number[j]), float(cost[i, j]))
        for i, j in zip(*linear_sum_assignment(cost), strict=True)
        if possible[i, j]
    ]
    count, there = len(pairs), (len(mine.number), len(theirs.number))
    precision, recall = (count / n if n else 0.0 for n in there)
    f1 = 2 * count / sum(there) if sum(there) else 0.0
    return Matching(precision, recall, f1, count, *there, tuple(pairs))


@dataclass(frozen=True)
class Ends:
    """Where synapses with both sides begin and end.

    Attributes
    ----------
    number : (n,) uint64
    ends : two (n, 3) int64 arrays
        Voxels of pre and post.
    """

    number: np.ndarray
    ends: tuple[np.ndarray, np.ndarray]


def side_ends(labels: np.ndarray, voxel_size: Sequence[float]) -> Ends:
    """The voxel of each side that lies nearest to its centroid, the first of equals in C order."""
    at = np.flatnonzero(labels)
    values = labels.ravel()[at].astype(np.uint64)
    present, which = np.unique(values, return_inverse=True)
    voxel = np.stack(np.unravel_index(at, labels.shape), axis=1)
    count = np.bincount(which, minlength=len(present))
    centre = np.stack([np.bincount(which, v, len(present)) / count for v in voxel.T], axis=1)
    away = np.linalg.norm((voxel - centre[which]) * np.array(voxel_size), axis=1)
    order = np.lexsort((at, away, which))
    first = order[np.searchsorted(which[order], np.arange(len(present)))]
    number = synapse_of(present[is_pre(present)])
    number = number[np.isin(post_label(number), present)]
    pre, post = (voxel[first[np.searchsorted(present, f(number))]] for f in (pre_label, post_label))
    return Ends(number, (pre, post))
