"""Match instances of two label arrays one to one by IoU.

Everything is computed from a contingency table: which labels overlap, and in how many voxels. The
table is collected part by part, so the volumes need not fit in memory.
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

#: largest table of one cluster of candidates that is matched as a dense one
_DENSE = 4_000_000


@dataclass(frozen=True)
class Matching:
    """One-to-one pairs of predicted and true instances, and the scores that follow from them.

    Attributes
    ----------
    precision, recall, f1 : float
        Scores in 0..1; `of` says which value they have without any instances.
    matched, predicted, truth : int
        Number of pairs, of predicted instances and of true instances.
    pairs : tuple of (int, int, float)
        Predicted label, true label, and the IoU (or another measure that they were matched by).
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
        """Compute the scores from the pairs and from the numbers of instances.

        Precision, recall and F1 are 1 if there are neither predicted nor true instances, and 0 if
        only one of the two is empty.
        """
        matched = len(pairs)
        both_empty = float(predicted == truth == 0)
        precision = matched / predicted if predicted else both_empty
        recall = matched / truth if truth else both_empty
        f1 = 2 * matched / (predicted + truth) if predicted + truth else 1.0
        return cls(precision, recall, f1, matched, predicted, truth, tuple(sorted(pairs)))

    def scores(self) -> dict[str, Any]:
        """Return all attributes except the pairs."""
        return {k: v for k, v in asdict(self).items() if k != "pairs"}

    def f1_interval(
        self, confidence_level: float = 0.95, draws: int = 10_000
    ) -> tuple[float, float]:
        """Return a confidence interval of F1, for other synapses of the same kind.

        It is a percentile bootstrap over pairs, misses and false positives: each draw takes the
        same number of them, with replacement.

        Parameters
        ----------
        confidence_level : float
            Probability that the interval holds F1.
        draws : int
            Number of draws; they are the same at every call.

        Returns
        -------
        (float, float)
            Lower and upper end of the interval.
        """
        counts = np.array([self.matched, self.predicted - self.matched, self.truth - self.matched])
        total = int(counts.sum())
        if not total:
            return self.f1, self.f1
        matched = np.random.default_rng(0).multinomial(total, counts / total, draws)[:, 0]
        f1 = 2 * matched / (total + matched)
        low, high = np.quantile(f1, [(1 - confidence_level) / 2, (1 + confidence_level) / 2])
        return float(low), float(high)


@dataclass(frozen=True)
class Overlaps:
    """Pairs of labels that lie on the same voxels of two arrays.

    Attributes
    ----------
    pairs : (k, 2) uint64
        Predicted label and true label (or label of another volume); one of both may be 0. A pair
        may occur more than once.
    counts : (k,) int64
        Number of voxels of each pair.
    """

    pairs: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> Overlaps:
        """Find the pairs of labels in each part ``(predicted, truth)`` of two label arrays.

        Raises
        ------
        InputError
            Labels are not whole numbers, or some are below 0.
        """
        found = [cls(np.zeros((0, 2), np.uint64), np.zeros(0, np.int64))]
        for predicted, truth in parts:
            predicted, truth = _labels(predicted, "predicted"), _labels(truth, "truth")
            labelled = (predicted != 0) | (truth != 0)
            pairs = np.stack([predicted[labelled], truth[labelled]], axis=1)
            found.append(cls(*np.unique(pairs, axis=0, return_counts=True)))
        return cls.joined(found)

    @classmethod
    def joined(cls, parts: Sequence[Overlaps]) -> Overlaps:
        """Put the pairs of all parts one after the other."""
        return cls(
            np.concatenate([part.pairs for part in parts]),
            np.concatenate([part.counts for part in parts]),
        )


def _labels(array: np.ndarray, name: str) -> np.ndarray:
    array = np.asarray(array)
    if array.dtype.kind not in "uib":
        raise InputError(f"{name} is {array.dtype}; labels are whole numbers")
    if array.dtype.kind == "i" and array.size and array.min() < 0:
        raise InputError(f"{name} holds the label {array.min()}; labels are 0 or above")
    return array.astype(np.uint64, copy=False)


@dataclass(frozen=True)
class Contingency:
    """Contingency table of two label arrays: in how many voxels each pair of labels overlaps.

    Attributes
    ----------
    predicted, truth : (n,) and (m,) arrays
        Labels that occur, sorted, without 0.
    predicted_voxels, truth_voxels : (n,) and (m,) int64
        Number of voxels of each label.
    i, j : (k,) int64
        Rows of `predicted` and of `truth` for each pair of labels that overlap.
    both : (k,) int64
        Number of voxels in which the pair overlaps.
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
        """Make the table from parts ``(predicted, truth)`` of the two arrays."""
        return cls.of_overlaps(Overlaps.of(parts))

    @classmethod
    def of_overlaps(cls, overlaps: Overlaps) -> Contingency:
        """Make the table from pairs of labels; equal pairs are added up."""
        labelled = overlaps.pairs.any(axis=1)
        pairs, into = np.unique(overlaps.pairs[labelled], axis=0, return_inverse=True)
        voxels = np.zeros(len(pairs), np.int64)
        np.add.at(voxels, into.reshape(-1), overlaps.counts[labelled])
        labels, sizes, rows = [], [], []
        for column in pairs.T:
            names, row = np.unique(column, return_inverse=True)
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
        """Return the IoU of every pair of labels that overlap."""
        union = self.predicted_voxels[self.i] + self.truth_voxels[self.j] - self.both
        return self.both / union

    def match(self, iou: float) -> Matching:
        """Match the labels one to one, as `match_instances` does."""
        value = self.iou()
        enough = value >= iou
        chosen = np.flatnonzero(enough)[best_pairs(self.i[enough], self.j[enough], value[enough])]
        i, j, value = self.i[chosen], self.j[chosen], value[chosen]
        pairs = [
            (int(self.predicted[a]), int(self.truth[b]), float(v))
            for a, b, v in zip(i, j, value, strict=True)
        ]
        return Matching.of(pairs, len(self.predicted), len(self.truth))


def best_pairs(i: np.ndarray, j: np.ndarray, value: np.ndarray, most: bool = True) -> np.ndarray:
    """Choose candidate pairs one to one: most pairs first, then the largest sum of values.

    Parameters
    ----------
    i, j : (k,) int arrays
        Predicted and true instance of each candidate pair.
    value : (k,) float array
        Value of each candidate pair, above 0, and with `most` up to 1.
    most : bool
        Whether the number of pairs comes first; otherwise the sum of values alone decides.

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
        # one more pair is worth more than any sum of values
        more = min(len(a), len(b)) + 1 if most else 0
        if len(a) * len(b) > _DENSE:
            chosen.extend(members[_best_of_many(ra, rb, value[members] + more)])
            continue
        worth = np.zeros((len(a), len(b)))
        worth[ra, rb] = value[members] + more
        which = {(x, y): m for x, y, m in zip(ra, rb, members, strict=True)}
        for x, y in zip(*linear_sum_assignment(worth, maximize=True), strict=True):
            if worth[x, y] > 0:
                chosen.append(which[x, y])
    return np.sort(np.array(chosen, np.int64))


def _best_of_many(i: np.ndarray, j: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Choose candidates by the largest sum of values, without a dense table.

    Every row has a column of its own beside the others, so that it may stay alone at no value, and
    every column a row; SciPy then finds the best full matching of this sparse graph.
    """
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    rows, columns = int(i.max()) + 1, int(j.max()) + 1
    alone, top = np.arange(rows), float(value.max()) + 1
    none = np.arange(columns)
    row = np.concatenate([i, alone, none + rows, j + rows])
    column = np.concatenate([j, alone + columns, none, i + columns])
    # SciPy drops zeros, so everything costs as much more
    cost = np.concatenate([top - value, np.full(rows, top), np.full(columns, top), 0 * value + top])
    graph = coo_array((cost, (row, column)), shape=(rows + columns, columns + rows)).tocsr()
    first, second = min_weight_full_bipartite_matching(graph)
    paired = (first < rows) & (second < columns)
    partner = np.full(rows, -1)
    partner[first[paired]] = second[paired]
    return np.flatnonzero(partner[i] == j)


def match_instances(predicted: np.ndarray, truth: np.ndarray, iou: float = 0.5) -> Matching:
    """Match the instances of two label arrays one to one.

    Parameters
    ----------
    predicted, truth : arrays of unsigned integers
        Labels of the predicted and of the true instances, in arrays of one shape; 0 is the
        background.
    iou : float
        Smallest IoU of two instances that may become a pair.

    Returns
    -------
    Matching
        The choice with most pairs, and among these the one with the largest sum of IoU.

    Raises
    ------
    InputError
        The shapes differ, labels are not whole numbers or below 0, or `iou` is not in 0..1 (0
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
    """Raise InputError unless 0 < iou <= 1."""
    if not 0 < iou <= 1:
        raise InputError(f"iou is {iou}; 0 < iou <= 1 is expected")


def restricted(table: Contingency, predicted: np.ndarray, truth: np.ndarray) -> Contingency:
    """Return the table of some labels only; the numbers of their voxels stay the same."""
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
