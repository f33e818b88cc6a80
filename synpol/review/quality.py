"""Say how good a result is, from the verdicts that were given so far."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from synpol.review import estimate
from synpol.review.estimate import Interval
from synpol.review.matching import Opinion
from synpol.review.sample import Sample
from synpol.review.verdicts import REAL

#: what an estimate from verdicts cannot see; the page and the report say it
BLIND = (
    "Recall counts what is missing among the candidates and in the random places. A synapse that "
    "no reviewer recognises in the image is counted nowhere, and a mistake that all reviewers make "
    "is in every number here."
)


@dataclass(frozen=True)
class Judged:
    """What reviewers agree on, for each synapse of a table.

    Attributes
    ----------
    seen : (n,) bool
        Whether somebody gave a verdict.
    real : (n,) int8
        1 for a synapse, 0 for none, -1 where it was not judged, cannot be told or is disputed.
    sides : (n,) int8
        1 where the sides of a synapse are right, 0 where they are exchanged, -1 elsewhere.
    right : (n,) int8
        1 where everything is right, 0 where something is not, -1 as above.
    disputed : tuple of int
        Rows about which as many reviewers say one thing as the other.
    """

    seen: np.ndarray
    real: np.ndarray
    sides: np.ndarray
    right: np.ndarray
    disputed: tuple[int, ...]

    @classmethod
    def of(cls, count: int, opinions: Sequence[Opinion]) -> Judged:
        """Take the majority of the reviewers of each synapse, question by question."""
        seen = np.zeros(count, bool)
        real, sides, right = (np.full(count, -1, np.int8) for _ in range(3))
        verdicts = defaultdict(list)
        for one in opinions:
            verdicts[one.row].append(one.verdict)
        disputed = []
        for row, given in verdicts.items():
            seen[row] = True
            told = [v for v in given if v != "unsure"]
            real[row] = _majority([v in REAL for v in told])
            right[row] = _majority([v == "right" for v in told])
            if real[row] == 1:
                sides[row] = _majority([v != "flipped" for v in told if v in REAL])
            if told and min(real[row], right[row]) < 0:
                disputed.append(row)
        return cls(seen, real, sides, right, tuple(sorted(disputed)))


def _majority(votes: Sequence[bool]) -> int:
    """Return 1 for more yes than no, 0 for more no than yes, -1 for as many."""
    yes = sum(votes)
    no = len(votes) - yes
    return -1 if yes == no else int(yes > no)


def shares(sample: Sample, judged: Judged) -> dict[str, Interval | None]:
    """Estimate shares of the synapses of a table from its random sample.

    Returns
    -------
    dict
        ``precision`` (synapses among all), ``sides`` (right sides among synapses) and ``right``
        (right in every respect among all).
    """
    drawn = sample.drawn(judged.seen)
    known = [rows[judged.real[rows] >= 0] for rows in drawn]
    number = [len(rows) for rows in known]
    real = [int((judged.real[rows] == 1).sum()) for rows in known]
    # the share of right sides is told by those synapses whose sides can be told
    with_sides = [int((judged.sides[rows] >= 0).sum()) for rows in known]
    right_sides = [int((judged.sides[rows] == 1).sum()) for rows in known]
    certain = [rows[judged.right[rows] >= 0] for rows in drawn]
    right = [int((judged.right[rows] == 1).sum()) for rows in certain]
    return {
        "precision": estimate.share(sample.sizes, number, real),
        "sides": estimate.ratio(sample.sizes, number, with_sides, right_sides),
        "right": estimate.share(sample.sizes, [len(r) for r in certain], right),
    }


def by_stratum(sample: Sample, judged: Judged) -> list[dict[str, Any]]:
    """Return the precision in each stratum, and that of all synapses from its scores upwards."""
    drawn = sample.drawn(judged.seen)
    known = [rows[judged.real[rows] >= 0] for rows in drawn]
    number = [len(rows) for rows in known]
    real = [int((judged.real[rows] == 1).sum()) for rows in known]
    return [
        {
            "stratum": h,
            "score": sample.bounds[h].tolist(),
            "synapses": int(sample.sizes[h]),
            "judged": number[h],
            "precision": shown(
                estimate.share(sample.sizes[h : h + 1], number[h : h + 1], real[h : h + 1])
            ),
            "from_here": shown(estimate.share(sample.sizes[h:], number[h:], real[h:])),
        }
        for h in range(len(sample.sizes))
    ]


@dataclass(frozen=True)
class Missed:
    """What tells about synapses that are not in the table.

    Attributes
    ----------
    candidates : Sample or None
        Sample of the candidates below the threshold.
    judged : Judged or None
        Verdicts about these.
    in_boxes : sequence of int
        Number of missed synapses, not among the candidates, in each box that was searched.
    boxes : int
        Number of boxes that fill the volume.
    """

    candidates: Sample | None
    judged: Judged | None
    in_boxes: Sequence[int]
    boxes: int


def quality(
    sample: Sample, judged: Judged, score: np.ndarray, missed: Missed, width: float
) -> dict[str, Any]:
    """Return everything that the verdicts say about a result, for a page and for programs.

    Parameters
    ----------
    sample, judged
        Sample of the table, and the verdicts about it.
    score : (n,) float64
        Score of each synapse.
    missed : Missed
    width : float
        Length of an interval for which more verdicts are counted.
    """
    size = int(sample.sizes.sum())
    found = shares(sample, judged)
    in_candidates = None
    if missed.candidates is not None and missed.judged is not None:
        precision = shares(missed.candidates, missed.judged)["precision"]
        in_candidates = precision and precision.times(float(missed.candidates.sizes.sum()))
    in_volume = estimate.number_in_boxes(missed.in_boxes, missed.boxes)
    lost = estimate.total(in_candidates, in_volume)
    precision = found["precision"]
    recall = None
    if precision is not None and lost is not None:
        recall = estimate.part_of_both(precision.times(float(size)), lost)
    return {
        "synapses": size,
        "judged": int(judged.seen.sum()),
        "unsure": int((judged.seen & (judged.real < 0)).sum()),
        "disputed": len(judged.disputed),
        **{name: shown(one) for name, one in found.items()},
        "recall": shown(recall),
        "cutoff": best_cutoff(sample, judged, score, lost.value if lost else 0.0),
        "missed_among_candidates": shown(in_candidates),
        "missed_elsewhere": shown(in_volume),
        "places_searched": len(missed.in_boxes),
        "places": missed.boxes,
        "more": None if precision is None else estimate.more_verdicts(precision, width, size),
        "width": width,
        "strata": by_stratum(sample, judged),
        "blind": BLIND,
    }


def best_cutoff(
    sample: Sample, judged: Judged, score: np.ndarray, missed: float
) -> dict[str, float] | None:
    """Find the score from which on synapses should be kept, by the F1 of the random sample.

    Each judged synapse of the sample stands for as many as its stratum holds for each judged one.

    Parameters
    ----------
    sample, judged
        As in `quality`.
    score : (n,) float64
        Score of each synapse.
    missed : float
        Estimated number of synapses that are not in the table.

    Returns
    -------
    dict or None
        ``score``, ``f1`` with this cutoff and ``f1_without``; None as long as a stratum has no
        verdict.
    """
    drawn = [rows[judged.real[rows] >= 0] for rows in sample.drawn(judged.seen)]
    if not all(map(len, drawn)):
        return None
    rows = np.concatenate(drawn)
    weights = [np.full(len(r), n / len(r)) for r, n in zip(drawn, sample.sizes, strict=True)]
    order = np.argsort(-score[rows], kind="stable")
    weight = np.concatenate(weights)[order]
    real = (judged.real[rows] == 1)[order] * weight
    everything = float(real.sum()) + missed
    if everything <= 0:
        return None
    f1 = 2 * np.cumsum(real) / (np.cumsum(weight) + everything)
    best = int(np.argmax(f1))
    # what has no verdict below the last one of the sample is kept with it
    value = 0.0 if best == len(order) - 1 else float(score[rows[order[best]]])
    return {"score": value, "f1": float(f1[best]), "f1_without": float(f1[-1])}


def agreement(opinions: Sequence[Opinion]) -> list[dict[str, Any]]:
    """Return Cohen's kappa of each pair of reviewers who judged the same synapses.

    Two questions are compared: the verdicts themselves, and whether there is a synapse.
    """
    by_reviewer: dict[str, dict[int, str]] = defaultdict(dict)
    for one in opinions:
        by_reviewer[one.source.reviewer][one.row] = one.verdict
    found = []
    for first, second in combinations(sorted(by_reviewer), 2):
        both = sorted(by_reviewer[first].keys() & by_reviewer[second].keys())
        if not both:
            continue
        said = [[by_reviewer[name][row] for row in both] for name in (first, second)]
        told = [pair for pair in zip(*said, strict=True) if "unsure" not in pair]
        real = [[str(pair[k] in REAL) for pair in told] for k in (0, 1)]
        found.append(
            {
                "reviewers": [first, second],
                "synapses": len(both),
                "same": sum(a == b for a, b in zip(*said, strict=True)),
                "kappa": shown(estimate.kappa(*said)),
                "kappa_real": shown(estimate.kappa(*real)),
            }
        )
    return found


def shown(one: Interval | None) -> dict[str, Any] | None:
    """Return an estimate as JSON has it."""
    if one is None:
        return None
    high = one.high if math.isfinite(one.high) else None
    return {"value": one.value, "low": one.low, "high": high, "judged": one.judged}
