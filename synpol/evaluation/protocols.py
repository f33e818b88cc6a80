"""Score synapses as other projects do, by the name of the protocol.

Both protocols need the label volumes in memory, like the programs that they follow. The scores of
synpol itself are in `synpol.evaluation.scores`.
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
    """Scores of `lin2020`, which counts predicted and true objects separately, without pairs.

    Attributes
    ----------
    precision, recall, f1 : float
        Scores in 0..1; 0 where the divisor is 0.
    predicted_found, predicted : int
        Number of predicted objects that overlap a true object enough, and of all predicted objects.
    truth_found, truth : int
        Number of true objects that overlap a predicted object enough, and of all true objects.
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

    Sections at both ends of both volumes are ignored. All predicted voxels together form one mask,
    which is dilated by one voxel along every axis and labelled again (26 neighbours); objects with
    fewer than `min_size` voxels are dropped. A predicted object counts as found when its IoU with a
    true synapse (both sides together, not dilated) is above `iou`; a true synapse counts as found
    when its IoU with a predicted object is above `iou`.

    Parameters
    ----------
    predicted, truth : (z, y, x) arrays of unsigned integers
        2n-1 on the pre side of synapse n, 2n on its post side, 0 elsewhere.
    iou : float
        Bound of the IoU; the default of that evaluator is 0.2.
    min_size : int
        Fewest voxels of a predicted object.
    margin : int
        Number of ignored sections at each end.

    Returns
    -------
    BothWays

    Raises
    ------
    InputError
        The shapes differ, or no section is left between the margins.

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
    enough = table.iou() > iou
    found = len(np.unique(table.i[enough])), len(np.unique(table.j[enough]))
    total = len(table.predicted), len(table.truth)
    precision, recall = (f / n if n else 0.0 for f, n in zip(found, total, strict=True))
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return BothWays(precision, recall, f1, found[0], total[0], found[1], total[1])


def cremi_partners(
    predicted: np.ndarray,
    truth: np.ndarray,
    segmentation: np.ndarray,
    voxel_size: Sequence[float],
    threshold: float = 400.0,
) -> Matching:
    """Score pairs of partners as the CREMI challenge does.

    Synapses with both sides are matched one to one with the least total cost. The cost of a pair is
    the mean of two distances: between the pre ends and between the post ends. A pair is impossible
    if one of these distances is above `threshold`, or if the two synapses connect different pre or
    post segments. The end of a side is its voxel nearest to its centroid (the challenge uses an
    annotated point instead).

    Parameters
    ----------
    predicted, truth : (z, y, x) arrays of unsigned integers
        2n-1 on the pre side of synapse n, 2n on its post side, 0 elsewhere.
    segmentation : (z, y, x) array of integers
        Labels of the neurons.
    voxel_size : 3 floats
        Voxel size along z, y, x; nm.
    threshold : float
        Largest distance between the ends of a pair, nm.

    Returns
    -------
    Matching
        Pairs of the predicted and the true number with the mean distance of their ends in nm.
        Synapses with a single side do not count; without any synapses the scores are 0.

    Raises
    ------
    InputError
        The shapes differ.

    References
    ----------
    https://cremi.org/metrics, and ``synaptic_partners.py`` of cremi_python.
    """
    for name, array in (("truth", truth), ("segmentation", segmentation)):
        if array.shape != predicted.shape:
            raise InputError(f"predicted has the shape {predicted.shape}, {name} {array.shape}")
    ours, true = side_ends(predicted, voxel_size), side_ends(truth, voxel_size)
    segments = [np.array([segmentation[tuple(e.T)] for e in x.ends]) for x in (ours, true)]
    size = np.array(voxel_size)
    distance = [
        np.linalg.norm((a[:, None] - b[None]) * size, axis=2)
        for a, b in zip(ours.ends, true.ends, strict=True)
    ]
    possible = (distance[0] <= threshold) & (distance[1] <= threshold)
    possible &= (segments[0][:, :, None] == segments[1][:, None, :]).all(axis=0)
    cost = np.where(possible, (distance[0] + distance[1]) / 2, 2 * threshold)
    pairs = [
        (int(ours.number[i]), int(true.number[j]), float(cost[i, j]))
        for i, j in zip(*linear_sum_assignment(cost), strict=True)
        if possible[i, j]
    ]
    count, total = len(pairs), (len(ours.number), len(true.number))
    precision, recall = (count / n if n else 0.0 for n in total)
    f1 = 2 * count / sum(total) if sum(total) else 0.0
    return Matching(precision, recall, f1, count, *total, tuple(pairs))


@dataclass(frozen=True)
class Ends:
    """One voxel on each side of the synapses that have both sides.

    Attributes
    ----------
    number : (n,) uint64
        Number of each synapse.
    ends : two (n, 3) int64 arrays
        Voxel on the pre side and voxel on the post side, z, y, x.
    """

    number: np.ndarray
    ends: tuple[np.ndarray, np.ndarray]


def side_ends(labels: np.ndarray, voxel_size: Sequence[float]) -> Ends:
    """Find the voxel of each side nearest to its centroid, the first in C order of several.

    Parameters
    ----------
    labels : (z, y, x) array of unsigned integers
        2n-1 on the pre side of synapse n, 2n on its post side, 0 elsewhere.
    voxel_size : 3 floats
        Voxel size along z, y, x, in any unit of length.
    """
    labelled = np.flatnonzero(labels)
    values = labels.ravel()[labelled].astype(np.uint64)
    present, which = np.unique(values, return_inverse=True)
    voxel = np.stack(np.unravel_index(labelled, labels.shape), axis=1)
    count = np.bincount(which, minlength=len(present))
    centre = np.stack([np.bincount(which, v, len(present)) / count for v in voxel.T], axis=1)
    distance = np.linalg.norm((voxel - centre[which]) * np.array(voxel_size), axis=1)
    order = np.lexsort((labelled, distance, which))
    first = order[np.searchsorted(which[order], np.arange(len(present)))]
    number = synapse_of(present[is_pre(present)])
    number = number[np.isin(post_label(number), present)]
    pre, post = (voxel[first[np.searchsorted(present, f(number))]] for f in (pre_label, post_label))
    return Ends(number, (pre, post))
