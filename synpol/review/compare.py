"""Compare two results at places that were judged: is the newer one better there?

To be fair, these are places from which neither network has learned. `hold_back` sets such places
aside before labels are made of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import bdtr

from synpol.review.boxes import is_in
from synpol.review.estimate import Interval, wilson
from synpol.review.found import Found
from synpol.review.known import Known
from synpol.review.matching import (
    EXCHANGED,
    LOST,
    UNCLEAR,
    match_places,
    opinions_of,
    tie_verdicts,
)
from synpol.review.quality import Judged, shown
from synpol.review.sample import random_numbers
from synpol.review.verdicts import OF_SYNAPSES, Verdict, standing

#: what a comparison cannot see; the report says it
BLIND = (
    "These are shares of the judged places. What a result has at other places is in none of them; "
    "a random sample of that result tells how good it is there."
)


def hold_back(
    found: Found, known: Known, share: float, seed: int
) -> tuple[Known, list[Verdict], list[Verdict]]:
    """Set a share of the judged places aside, drawn at random by their place alone.

    A synapse goes with all verdicts about it, and a box that was searched with the missed synapses
    in it.

    Parameters
    ----------
    found : Found
        Synapses of the table.
    known : Known
        What is known after all verdicts.
    share : float
        Share of the places, 0..1.
    seed : int

    Returns
    -------
    Known
        What the other verdicts say about the table. It has all missed synapses: nothing is learned
        from them.
    list of Verdict
        Verdicts that are held back.
    list of Verdict
        Those among them about places that are not in the table.
    """

    def drawn(pre: np.ndarray, post: np.ndarray) -> np.ndarray:
        return random_numbers(pre, post, seed + 2) / 2.0**64 < share

    def drawn_of(some: Sequence[Verdict]) -> list[bool]:
        ends = np.array([(one.pre, one.post) for one in some]).reshape(-1, 2, 3)
        return drawn(ends[:, 0], ends[:, 1]).tolist()

    rows = drawn(found.pre, found.post)
    boxes = [one for one in known.verdicts if one.verdict == "seen"]
    is_held = dict(zip([one.uuid for one in boxes], drawn_of(boxes), strict=True))
    elsewhere = []
    for one, by_itself in zip(known.missed, drawn_of(known.missed), strict=True):
        around = [is_held[b.uuid] for b in boxes if is_in(one, np.array([b.pre, b.post]))]
        if any(around) or (by_itself and not around):
            elsewhere.append(one)
    below = [one.source for one in known.candidates]
    elsewhere += [one for one, held in zip(below, drawn_of(below), strict=True) if held]
    held = [o.source for o in known.found if rows[o.row]] + elsewhere
    held += [one for one in boxes if is_held[one.uuid]]
    away = {one.uuid for one in held}
    left = [o for o in known.found if not rows[o.row]]
    others = replace(
        known,
        verdicts=[one for one in known.verdicts if one.uuid not in away],
        found=left,
        judged=Judged.of(len(found), left),
    )
    return others, [one for one in known.verdicts if one.uuid in away], elsewhere


@dataclass(frozen=True)
class Places:
    """Places about which reviewers agree whether there is a synapse.

    Attributes
    ----------
    pre, post : (n, 3) float64
        Both sides as reviewers see them, z, y, x; nm.
    is_real : (n,) bool
        Whether there is a synapse.
    has_sides : (n,) bool
        Whether reviewers agree on its sides.
    """

    pre: np.ndarray
    post: np.ndarray
    is_real: np.ndarray
    has_sides: np.ndarray

    def __len__(self) -> int:
        return len(self.is_real)

    @classmethod
    def of(cls, found: Found, digest: str, verdicts: Sequence[Verdict], distance: float) -> Places:
        """Collect the places of verdicts, each once.

        Parameters
        ----------
        found : Found
            Synapses that were looked at.
        digest : str
            SHA-256 of their table.
        verdicts : sequence of Verdict
        distance : float
            Largest distance of a side between verdicts about the same synapse, nm.
        """
        told = [
            replace(one, verdict="right") if one.verdict == "missed" else one
            for one in standing(verdicts)
            if one.verdict in OF_SYNAPSES or one.verdict == "missed"
        ]
        matched = tie_verdicts(found, told, distance, digest)
        elsewhere = [
            one for one, tie in zip(told, matched.tie.tolist(), strict=True) if tie == LOST
        ]
        groups = _groups(elsewhere, distance)
        own = _agreed(found, told, distance, digest)
        other = _agreed(groups, elsewhere, distance, "")
        return cls(*(np.concatenate(pair) for pair in zip(own, other, strict=True)))


def _groups(verdicts: Sequence[Verdict], distance: float) -> Found:
    """Return a place for each group of verdicts whose middles are near each other."""
    first: list[Verdict] = []
    middles = np.zeros((0, 3))
    for one in verdicts:
        middle = (np.array(one.pre) + one.post) / 2
        if (np.linalg.norm(middles - middle, axis=1) > distance).all():
            first.append(one)
            middles = np.concatenate([middles, middle[None]])
    ends = np.array([(one.pre, one.post) for one in first]).reshape(-1, 2, 3)
    none = np.zeros((len(first), 2), np.int64)
    number = np.arange(1, len(first) + 1, dtype=np.uint64)
    return Found(number, ends[:, 0], ends[:, 1], none, np.zeros(len(first)))


def _agreed(
    found: Found, verdicts: Sequence[Verdict], distance: float, digest: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the fields of `Places` for the synapses on which reviewers agree."""
    opinions, _ = opinions_of(verdicts, tie_verdicts(found, verdicts, distance, digest))
    judged = Judged.of(len(found), opinions)
    rows = np.flatnonzero(judged.real >= 0)
    turned = (judged.sides[rows] == 0)[:, None]
    pre, post = found.pre[rows], found.post[rows]
    return (
        np.where(turned, post, pre),
        np.where(turned, pre, post),
        judged.real[rows] == 1,
        judged.sides[rows] >= 0,
    )


def compare(places: Places, before: Found, after: Found, distance: float) -> dict[str, Any]:
    """Say how good two results are at places that were judged.

    Of the synapses that a result has at these places, `precision` is the share of real ones, and
    `sides` the share of those whose sides are right among the real ones. `recall` is the share of
    the real ones that it has. The intervals are Wilson's. `better` and `worse` are the places where
    only one of both is right, and `p` is the probability of so large a difference by chance
    (McNemar's exact test).

    Parameters
    ----------
    places : Places
    before, after : Found
        Synapses of both results.
    distance : float
        Largest distance of a side, nm.
    """
    none = np.zeros((len(places), 2), np.int64)
    right, numbers = [], {}
    for name, result in (("before", before), ("after", after)):
        matched = match_places(result, places.pre, places.post, none, distance)
        there = matched.tie != LOST
        hits = there & places.is_real
        with_sides = hits & places.has_sides & (matched.tie != UNCLEAR)
        right_sides = with_sides & (matched.tie != EXCHANGED)
        numbers[name] = {
            "synapses": len(result),
            "elsewhere": len(result) - len(np.unique(matched.row[matched.row >= 0])),
            "precision": _share(hits, there),
            "sides": _share(right_sides, with_sides),
            "recall": _share(hits, places.is_real),
        }
        right.append(np.where(places.is_real, hits & (right_sides | ~with_sides), ~there))
    better, worse = (int((one & ~other).sum()) for one, other in (right[::-1], right))
    chance = 2 * bdtr(min(better, worse), better + worse, 0.5)
    return {
        "places": len(places),
        "real": int(places.is_real.sum()),
        **numbers,
        "better": better,
        "worse": worse,
        "p": min(1.0, float(chance)),
        "blind": BLIND,
    }


def _share(hits: np.ndarray, among: np.ndarray) -> dict[str, Any] | None:
    """Return a share with its interval, as JSON has it; None where it is a share of nothing."""
    count = int(among.sum())
    if not count:
        return None
    value = int(hits.sum()) / count
    return shown(Interval(value, *wilson(value, count), count, float(count)))
