"""One-to-one matching of instances by IoU.

Everything is computed from a contingency table (which labels meet on how many voxels), which is
gathered part by part, so that volumes need not fit in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from synpol.errors import InputError


@dataclass(frozen=True)
class Matching:
    """One-to-one pairs of predicted and true instances, and what follows from their number.

    Attributes
    ----------
    precision, recall, f1 : float
        Of `matched` over `predicted` and `truth`; `of` says what they are where these are empty.
    matched, predicted, truth : int
        Pairs, predicted instances, true instances.
    pairs : tuple of (int, int, float)
        Predicted label, true label, IoU (or what else they were matched by).
    """

    precision: float
    recall: float
    f1: float
    matched: int
    predicted: int
    truth: int
    pairs: tuple[tuple[int, int, float], ...]

    @classmethod
    def of(cls, pairs: Sequence[tuple[int, int, float]], predicted: int, truth: int) -> Matching:
        """From the pairs, which are sorted by predicted label, and how many there are of each.

        Precision, recall and F1 are 1 where there was nothing to find and nothing was found, 0
        where only one of both is empty.
        """
        matched = len(pairs)
        empty = float(predicted == truth == 0)
        precision = matched / predicted if predicted else empty
        recall = matched / truth if truth else empty
        f1 = 2 * matched / (predicted + truth) if predicted + truth else 1.0
        return cls(precision, recall, f1, matched, predicted, truth, tuple(sorted(pairs)))

    def scores(self) -> dict[str, Any]:
        """Everything but the pairs."""
        return {k: v for k, v in asdict(self).items() if k != "pairs"}

    def f1_interval(self, level: float = 0.95, draws: int = 10_000) -> tuple[float, float]:
        """Where F1 lies with a probability, had other synapses of the same kind been looked at.

        A percentile bootstrap over pairs, misses and false positives: so many of them are drawn
        anew, with replacement.

        Parameters
        ----------
        level : float
            Probability.
        draws : int
            The draws are the same at every call.
        """
        counts = np.array([self.matched, self.predicted - self.matched, self.truth - self.matched])
        total = int(counts.sum())
        if not total:
            return self.f1, self.f1
        found = np.random.default_rng(0).multinomial(total, counts / total, draws)
        f1 = 2 * found[:, 0] / (total + found[:, 0])
        low, high = np.quantile(f1, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)


def meetings(parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Which labels meet in each part, (k, 2) uint64, and on how many voxels; 0 meets others too.

    Raises
    ------
    InputError
        Labels that are not whole numbers, or below 0.
    """
    meets = [np.zeros((0, 2), np.uint64)]
    counts = [np.zeros(0, np.int64)]
    for predicted, truth in parts:
        predicted, truth = _labels(predicted, "predicted"), _labels(truth, "truth")
        there = (predicted != 0) | (truth != 0)
        pairs = np.stack([predicted[there], truth[there]], axis=1)
        unique, count = np.unique(pairs, axis=0, return_counts=True)
        meets.append(unique)
        counts.append(count)
    return np.concatenate(meets), np.concatenate(counts)


def _labels(array: np.ndarray, name: str) -> np.ndarray:
    array = np.asarray(array)
    if array.dtype.kind not in "uib":
        raise InputError(f"{name} is {array.dtype}; labels are whole numbers")
    if array.dtype.kind == "i" and array.size and array.min() < 0:
        raise InputError(f"{name} holds the label {array.min()}; labels are 0 or above")
    return array.astype(np.uint64, copy=False)


@dataclass(frozen=True)
class Contingency:
    """On how many voxels labels of two arrays meet.

    Attributes
    ----------
    predicted, truth : (n,), (m,) arrays
        Labels that occur, sorted, without 0.
    predicted_voxels, truth_voxels : (n,), (m,) int64
    i, j : (k,) int64
        Rows of `predicted` and `truth` that meet.
    both : (k,) int64
        Voxels on which they do.
    """

    predicted: np.ndarray
    truth: np.ndarray
    predicted_voxels: np.ndarray
    truth_voxels: np.ndarray
    i: np.ndarray
    j: np.ndarray
    both: np.ndarray

    @classmethod
    def of(cls, parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> Contingency:
        """Gather from parts of the two arrays."""
        return cls.of_meetings(*meetings(parts))

    @classmethod
    def of_meetings(cls, pairs: np.ndarray, counts: np.ndarray) -> Contingency:
        """Sum up pairs of labels, (k, 2) uint64 with 0 for none, that meet on so many voxels."""
        there = pairs.any(axis=1)
        pairs, into = np.unique(pairs[there], axis=0, return_inverse=True)
        voxels = np.zeros(len(pairs), np.int64)
        np.add.at(voxels, into.reshape(-1), counts[there])
        labels, sizes, rows = [], [], []
        for side in (0, 1):
            names, row = np.unique(pairs[:, side], return_inverse=True)
            size = np.zeros(len(names), np.int64)
            np.add.at(size, row, voxels)
            zero = int(len(names) > 0 and names[0] == 0)
            labels.append(names[zero:])
            sizes.append(size[zero:])
            rows.append(row - zero)
        both = (pairs[:, 0] != 0) & (pairs[:, 1] != 0)
        return cls(
            labels[0],
            labels[1],
            sizes[0],
            sizes[1],
            rows[0][both],
            rows[1][both],
            voxels[both],
        )

    def iou(self) -> np.ndarray:
        """IoU of every pair that meets."""
        union = self.predicted_voxels[self.i] + self.truth_voxels[self.j] - self.both
        return self.both / union

    def match(self, iou: float) -> Matching:
        """Match one to one, as `match_instances`."""
        value = self.iou()
        good = value >= iou
        chosen = best_pairs(self.i[good], self.j[good], value[good])
        i, j, value = self.i[good][chosen], self.j[good][chosen], value[good][chosen]
        pairs = [
            (int(self.predicted[a]), int(self.truth[b]), float(v))
            for a, b, v in zip(i, j, value, strict=True)
        ]
        return Matching.of(pairs, len(self.predicted), len(self.truth))


def best_pairs(i: np.ndarray, j: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Choose candidate pairs one to one: as many as possible, then the largest sum of value.

    Parameters
    ----------
    i, j : (k,) int arrays
        The two ends of each candidate.
    value : (k,) float array
        0..1.

    Returns
    -------
    int array
        Rows of the chosen candidates, ascending.
    """
    if len(i) == 0:
        return np.zeros(0, np.int64)
    rows, row = np.unique(i, return_inverse=True)
    columns, column = np.unique(j, return_inverse=True)
    size = len(rows) + len(columns)
    graph = coo_array((np.ones(len(i), np.uint8), (row, column + len(rows))), shape=(size, size))
    _, cluster = connected_components(graph, directed=False)
    order = np.argsort(cluster[row], kind="stable")
    chosen = []
    for members in np.split(order, np.flatnonzero(np.diff(cluster[row][order])) + 1):
        if len(members) == 1:
            chosen.append(members[0])
            continue
        a, ra = np.unique(row[members], return_inverse=True)
        b, rb = np.unique(column[members], return_inverse=True)
        # a pair more is worth more than any sum of values can be
        worth = np.zeros((len(a), len(b)))
        worth[ra, rb] = value[members] + min(len(a), len(b)) + 1
        which = {(x, y): m for x, y, m in zip(ra, rb, members, strict=True)}
        for x, y in zip(*linear_sum_assignment(worth, maximize=True), strict=True):
            if worth[x, y] > 0:
                chosen.append(which[x, y])
    return np.sort(np.array(chosen, np.int64))


def match_instances(predicted: np.ndarray, truth: np.ndarray, iou: float = 0.5) -> Matching:
    """Match the instances of two label arrays one to one.

    Parameters
    ----------
    predicted, truth : arrays of unsigned integers, of one shape
        0 is background.
    iou : float
        Two instances can be a pair when their IoU is at least this.

    Returns
    -------
    Matching
        As many pairs as possible, and among those choices the one with the largest sum of IoU.

    Raises
    ------
    InputError
        Different shapes, labels that are not whole numbers or below 0, or an `iou` outside 0..1 (0
        excluded).

    Examples
    --------
    >>> import numpy as np
    >>> match = match_instances(np.array([1, 1, 2, 2]), np.array([7, 7, 7, 8]))
    >>> match.pairs, match.f1
    (((1, 7, 0.6666666666666666), (2, 8, 0.5)), 1.0)
    """
    predicted, truth = np.asarray(predicted), np.asarray(truth)
    if predicted.shape != truth.shape:
        raise InputError(f"predicted has the shape {predicted.shape}, truth {truth.shape}")
    check_iou(iou)
    return Contingency.of([(predicted, truth)]).match(iou)


def check_iou(iou: float) -> None:
    """Refuse an IoU that is none."""
    if not 0 < iou <= 1:
        raise InputError(f"iou is {iou}; 0 < iou <= 1 is expected")


def restricted(table: Contingency, predicted: np.ndarray, truth: np.ndarray) -> Contingency:
    """The table of these labels alone; sizes stay those of the whole instances."""
    keep_i, keep_j = np.isin(table.predicted, predicted), np.isin(table.truth, truth)
    pair = keep_i[table.i] & keep_j[table.j]
    new_i, new_j = np.cumsum(keep_i) - 1, np.cumsum(keep_j) - 1
    return Contingency(
        table.predicted[keep_i],
        table.truth[keep_j],
        table.predicted_voxels[keep_i],
        table.truth_voxels[keep_j],
        new_i[table.i[pair]],
        new_j[table.j[pair]],
        table.both[pair],
    )
