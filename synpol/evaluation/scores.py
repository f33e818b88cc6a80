"""Score a prediction: whole synapses, their sides, and both together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from synpol.decoding.dilation import Box, dilate
from synpol.decoding.reference import components
from synpol.evaluation.matching import (
    Contingency,
    Matching,
    Overlaps,
    best_pairs,
    check_iou,
    restricted,
)
from synpol.images.marks import is_mark, without_marks
from synpol.polarity import LabelKind, split_labels


@dataclass(frozen=True)
class Evaluation:
    """Contingency tables of a prediction and its truth, from which all scores are computed.

    Attributes
    ----------
    synapse : Contingency
        Table of whole synapses, by their number n.
    pre, post : Contingency or None
        Tables of the sides, by n; None for labels without sides.
    min_size : int
        Fewest voxels of each side of a synapse that is scored.
    left_out : array
        Numbers of predicted synapses that lie mostly where nobody looked. They are scored only
        where they match a true synapse.
    unknown : int
        Voxels where nobody looked.
    """

    synapse: Contingency
    pre: Contingency | None
    post: Contingency | None
    min_size: int = 0
    left_out: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    unknown: int = 0

    @classmethod
    def of(
        cls,
        parts: Iterable[tuple[np.ndarray, np.ndarray]],
        labels: LabelKind = "polarity",
        min_size: int = 0,
        marked: bool = False,
    ) -> Evaluation:
        """Make the tables from parts ``(predicted, truth)`` of two label volumes.

        Parameters
        ----------
        parts : iterable of (array, array)
            Labels of the same voxels in the prediction and in the truth.
        labels : {"polarity", "union"}
            Labels of both volumes: 2n-1 and 2n for "polarity", n for "union".
        min_size : int
            A synapse is scored only if each of its sides has at least this many voxels, in the
            truth and in the prediction. (The border of the volume may leave only a few voxels of a
            synapse.) A predicted synapse is also left out if all true synapses that it matches are
            left out.
        marked : bool
            Whether the truth has marks (see `synpol.images.marks`). Voxels with a mark do not count
            at all.

        Raises
        ------
        InputError
            Labels are not whole numbers, or some are below 0.
        """
        return cls.of_overlaps(Overlaps.of(parts), labels, min_size, marked)

    @classmethod
    def of_overlaps(
        cls, overlaps: Overlaps, labels: LabelKind, min_size: int, marked: bool = False
    ) -> Evaluation:
        """Make the tables from the overlaps of all parts; see `of`."""
        left_out, unknown = np.zeros(0, np.uint64), 0
        if marked:
            overlaps, left_out, unknown = _known_part(overlaps, labels)
        if labels == "union":
            synapse = Contingency.of_overlaps(overlaps)
            return cls(synapse, None, None, min_size, left_out, unknown)
        number, is_pre = split_labels(overlaps.pairs)
        none = np.uint64(0)

        def table(pairs: np.ndarray) -> Contingency:
            return Contingency.of_overlaps(Overlaps(pairs, overlaps.counts))

        return cls(
            table(number),
            table(np.where(is_pre, number, none)),
            table(np.where(is_pre, none, number)),
            min_size,
            left_out,
            unknown,
        )

    def score(self, iou: float) -> dict[str, Matching]:
        """Match predicted and true synapses at an IoU, by several criteria.

        Parameters
        ----------
        iou : float
            Smallest IoU of a pair.

        Returns
        -------
        dict of str to Matching
            ``polarity_correct``, ``synapse``, ``pre`` and ``post``; only ``synapse`` for labels
            without sides. A synapse is *polarity-correct* when its pre side matches the pre side of
            a true synapse and its post side matches the post side of the same synapse.
        """
        check_iou(iou)
        kept_predicted, kept_truth = self._scored(iou)
        if self.pre is None or self.post is None:
            table = restricted(self.synapse, kept_predicted, kept_truth)
            return {"synapse": table.match(iou)}
        matchings = {"polarity_correct": self._polarity(iou, kept_predicted, kept_truth)}
        for name, table in (("synapse", self.synapse), ("pre", self.pre), ("post", self.post)):
            matchings[name] = restricted(table, kept_predicted, kept_truth).match(iou)
        return matchings

    def _scored(self, iou: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers of the predicted and of the true synapses that are scored."""
        whole = self.synapse
        predicted, truth = self._large(iou)
        if not len(self.left_out):
            return predicted, truth
        found = whole.predicted[whole.i[whole.iou() >= iou]]
        return np.setdiff1d(predicted, np.setdiff1d(self.left_out, found)), truth

    def _large(self, iou: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers of the synapses that are scored by their size."""
        whole = self.synapse
        if not self.min_size or self.pre is None or self.post is None:
            return whole.predicted, whole.truth
        large = []
        for which in ("predicted", "truth"):
            numbers = [
                getattr(t, which)[getattr(t, f"{which}_voxels") >= self.min_size]
                for t in (self.pre, self.post)
            ]
            large.append(np.intersect1d(*numbers))
        predicted, truth = large
        matches = whole.iou() >= iou
        with_scored = np.isin(whole.truth[whole.j], truth)
        without, needed = (
            whole.predicted[whole.i[matches & w]] for w in (~with_scored, with_scored)
        )
        return np.setdiff1d(predicted, np.setdiff1d(without, needed)), truth

    def _polarity(self, iou: float, kept_predicted: np.ndarray, kept_truth: np.ndarray) -> Matching:
        """Match synapses whose two sides match; a pair has the mean IoU of its sides."""
        iou_of: list[dict[tuple[int, int], float]] = []
        for table in (self.pre, self.post):
            table = restricted(table, kept_predicted, kept_truth)  # type: ignore[arg-type]
            value = table.iou()
            enough = value >= iou
            numbers = zip(
                table.predicted[table.i[enough]].tolist(),
                table.truth[table.j[enough]].tolist(),
                strict=True,
            )
            iou_of.append(dict(zip(numbers, value[enough].tolist(), strict=True)))
        pre, post = iou_of
        both = sorted(pre.keys() & post.keys())
        value = np.array([(pre[pair] + post[pair]) / 2 for pair in both])
        predicted, truth = np.array(both, dtype=np.uint64).reshape(-1, 2).T
        chosen = best_pairs(predicted, truth, value)
        pairs = [(*both[k], float(value[k])) for k in chosen]
        return Matching.of(pairs, len(kept_predicted), len(kept_truth))

    def correct(self, iou: float = 0.5) -> dict[int, bool]:
        """Return whether each scored predicted synapse is polarity-correct, by its number.

        For labels without sides: whether it matches a true synapse.
        """
        matched = {pair[0] for pair in self._first_score(iou).pairs}
        scored, _ = self._scored(iou)
        return {int(number): int(number) in matched for number in scored}

    def missed(self, iou: float = 0.5) -> dict[int, int]:
        """Return the scored true synapses that were not found, by number, with their voxels.

        The largest synapses come first.
        """
        matched = {pair[1] for pair in self._first_score(iou).pairs}
        _, scored = self._scored(iou)
        table = self.synapse
        missed = [
            k
            for k in np.flatnonzero(np.isin(table.truth, scored))
            if int(table.truth[k]) not in matched
        ]
        missed.sort(key=lambda k: -table.truth_voxels[k])
        return {int(table.truth[k]): int(table.truth_voxels[k]) for k in missed}

    def _first_score(self, iou: float) -> Matching:
        return next(iter(self.score(iou).values()))

    def to_json(self, ious: Sequence[float]) -> dict[str, Any]:
        """Return the content of ``scores.json`` for several IoU."""
        matchings = {f"{iou:g}": self.score(iou) for iou in ious}
        unknown = {"voxels": self.unknown, "predicted": len(self.left_out)}
        told: dict[str, Any] = {"unknown": unknown} if self.unknown else {}
        return told | {
            "iou": {
                iou: {name: match.scores() for name, match in kinds.items()}
                for iou, kinds in matchings.items()
            },
            "f1_interval": {
                iou: {name: list(match.f1_interval()) for name, match in kinds.items()}
                for iou, kinds in matchings.items()
            },
        }


def _known_part(overlaps: Overlaps, labels: LabelKind) -> tuple[Overlaps, np.ndarray, int]:
    """Leave out the voxels with marks.

    Returns
    -------
    Overlaps
        The rest.
    array
        Numbers of predicted synapses of which more voxels are left out than not.
    int
        Number of voxels that are left out.
    """
    lost = is_mark(overlaps.pairs[:, 1])
    predicted = overlaps.pairs[:, 0]
    number = split_labels(predicted)[0] if labels == "polarity" else predicted
    numbers, row = np.unique(number, return_inverse=True)
    balance = np.zeros(len(numbers), np.int64)
    np.add.at(balance, row, np.where(lost, 1, -1) * overlaps.counts)
    return (
        Overlaps(overlaps.pairs[~lost], overlaps.counts[~lost]),
        numbers[(balance > 0) & (numbers > 0)],
        int(overlaps.counts[lost].sum()),
    )


def truth_instances(
    truth: np.ndarray, labels: LabelKind, dilate_sz: Box = 5, marked: bool = False
) -> np.ndarray:
    """Return the instances of a label volume; the components of a mask become instances.

    Parameters
    ----------
    truth : (z, y, x) array of integers
        Labels, or a mask.
    labels : {"polarity", "union"}
        What the labels mark. A union with a single label is a mask: its synapses are the
        face-connected components of its dilation, as in the decoder.
    dilate_sz : int or 3 ints
        Box of the decoder's dilation, voxels; see `synpol.decoding.dilation.Box`.
    marked : bool
        Whether it has marks (see `synpol.images.marks`), which stay.

    Returns
    -------
    (z, y, x) array of integers
        The labels themselves, or numbers of the components of the mask.
    """
    if marked:
        found = truth_instances(without_marks(truth), labels, dilate_sz).astype(np.uint64)
        return np.where(is_mark(truth), truth, found)
    if labels == "union" and len(np.unique(truth[truth != 0])) <= 1:
        mask = truth != 0
        return np.where(mask, components(dilate(mask, dilate_sz))[0], 0)
    return truth
