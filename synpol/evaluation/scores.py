"""How good is it: scores of whole synapses, of sides, and of both together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from synpol.decoding.reference import components, dilate_in_plane
from synpol.evaluation.matching import (
    Contingency,
    Matching,
    best_pairs,
    check_iou,
    meetings,
    restricted,
)
from synpol.polarity import LabelKind, split_labels


@dataclass(frozen=True)
class Evaluation:
    """All that scores are made of.

    Attributes
    ----------
    synapse : Contingency
        Of whole synapses, by their number n.
    pre, post : Contingency or None
        Of the sides, by n; None for labels without sides.
    min_size : int
        What `score` leaves out.
    """

    synapse: Contingency
    pre: Contingency | None
    post: Contingency | None
    min_size: int = 0

    @classmethod
    def of(
        cls,
        parts: Iterable[tuple[np.ndarray, np.ndarray]],
        labels: LabelKind = "polarity",
        min_size: int = 0,
    ) -> Evaluation:
        """Gather from parts ``(predicted, truth)`` of the two label volumes.

        Parameters
        ----------
        parts : iterable of (array, array)
        labels : {"polarity", "union"}
            polarity: both are 2n-1 / 2n; union: both carry n.
        min_size : int
            Only synapses with both sides of at least this many voxels count (a synapse that the
            volume's border cuts to a sliver has no sides to speak of). The same rule holds for the
            truth and for the prediction. A predicted synapse that matches only true ones which
            were left out is left out too.

        Raises
        ------
        InputError
            Labels that are not whole numbers, or below 0.
        """
        return cls.of_meetings(*meetings(parts), labels, min_size)

    @classmethod
    def of_meetings(
        cls, pairs: np.ndarray, counts: np.ndarray, labels: LabelKind, min_size: int
    ) -> Evaluation:
        """The same from what `meetings` found in all parts."""
        if labels == "union":
            return cls(Contingency.of_meetings(pairs, counts), None, None, min_size)
        number, is_pre = split_labels(pairs)
        none = np.uint64(0)
        return cls(
            Contingency.of_meetings(number, counts),
            Contingency.of_meetings(np.where(is_pre, number, none), counts),
            Contingency.of_meetings(np.where(is_pre, none, number), counts),
            min_size,
        )

    def score(self, iou: float) -> dict[str, Matching]:
        """Matchings at an IoU: polarity_correct, synapse, pre, post; synapse alone without sides.

        A synapse is *polarity-correct* when its pre side matches the pre side of a true synapse and
        its post side the post side of the same one.
        """
        check_iou(iou)
        if self.pre is None or self.post is None:
            return {"synapse": self.synapse.match(iou)}
        kept_predicted, kept_truth = self._kept(iou)
        matchings = {"polarity_correct": self._polarity(iou, kept_predicted, kept_truth)}
        for name, table in (("synapse", self.synapse), ("pre", self.pre), ("post", self.post)):
            matchings[name] = restricted(table, kept_predicted, kept_truth).match(iou)
        return matchings

    def _kept(self, iou: float) -> tuple[np.ndarray, np.ndarray]:
        whole = self.synapse
        if not self.min_size or self.pre is None or self.post is None:
            return whole.predicted, whole.truth
        large = []
        for which in ("predicted", "truth"):
            names = [
                getattr(t, which)[getattr(t, f"{which}_voxels") >= self.min_size]
                for t in (self.pre, self.post)
            ]
            large.append(np.intersect1d(*names))
        predicted, truth = large
        good = whole.iou() >= iou
        counts = np.isin(whole.truth[whole.j], truth)
        ignored, needed = (whole.predicted[whole.i[good & w]] for w in (~counts, counts))
        return np.setdiff1d(predicted, np.setdiff1d(ignored, needed)), truth

    def _polarity(self, iou: float, kept_predicted: np.ndarray, kept_truth: np.ndarray) -> Matching:
        found: list[dict[tuple[int, int], float]] = []
        for table in (self.pre, self.post):
            table = restricted(table, kept_predicted, kept_truth)  # type: ignore[arg-type]
            value = table.iou()
            good = value >= iou
            names = zip(
                table.predicted[table.i[good]].tolist(),
                table.truth[table.j[good]].tolist(),
                strict=True,
            )
            found.append(dict(zip(names, value[good].tolist(), strict=True)))
        both = sorted(found[0].keys() & found[1].keys())
        value = np.array([(found[0][pair] + found[1][pair]) / 2 for pair in both])
        ends = np.array(both, dtype=np.uint64).reshape(-1, 2)
        chosen = best_pairs(ends[:, 0], ends[:, 1], value)
        pairs = [(*both[k], float(value[k])) for k in chosen]
        return Matching.of(pairs, len(kept_predicted), len(kept_truth))

    def correct(self, iou: float = 0.5) -> dict[int, bool]:
        """Whether each predicted synapse that is scored is right: polarity-correct, or found."""
        found = {pair[0] for pair in self._first_score(iou).pairs}
        kept, _ = self._kept(iou)
        return {int(number): int(number) in found for number in kept}

    def missed(self, iou: float = 0.5) -> dict[int, int]:
        """True synapses that are scored and were not found, and their voxels; the largest first."""
        found = {pair[1] for pair in self._first_score(iou).pairs}
        _, kept = self._kept(iou)
        table = self.synapse
        lost = [
            k
            for k in np.flatnonzero(np.isin(table.truth, kept))
            if int(table.truth[k]) not in found
        ]
        lost.sort(key=lambda k: -table.truth_voxels[k])
        return {int(table.truth[k]): int(table.truth_voxels[k]) for k in lost}

    def _first_score(self, iou: float) -> Matching:
        return next(iter(self.score(iou).values()))

    def to_json(self, ious: Sequence[float]) -> dict[str, Any]:
        """The content of ``scores.json``."""
        found = {f"{iou:g}": self.score(iou) for iou in ious}
        return {
            "iou": {
                iou: {name: match.scores() for name, match in kinds.items()}
                for iou, kinds in found.items()
            },
            "f1_interval": {
                iou: {name: list(match.f1_interval()) for name, match in kinds.items()}
                for iou, kinds in found.items()
            },
        }


def truth_instances(truth: np.ndarray, labels: LabelKind, dilate_sz: int = 5) -> np.ndarray:
    """The instances that a label volume stands for.

    Parameters
    ----------
    truth : (z, y, x) array of integers
    labels : {"polarity", "union"}
        A union with one single label is a mask: its synapses are the face-connected components of
        its dilation, as in the decoder. Otherwise every label is an instance.
    dilate_sz : int
        Of the decoder.
    """
    if labels == "union" and len(np.unique(truth[truth != 0])) <= 1:
        mask = truth != 0
        return np.where(mask, components(dilate_in_plane(mask, dilate_sz))[0], 0)
    return truth
