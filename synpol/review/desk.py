"""The desk at which reviewers work: what comes next for whom, and how good the result is so far.

The desk holds no verdict of its own. Everything is read from the store, into which servers on other
machines may write too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from synpol.config import Review
from synpol.errors import InputError
from synpol.review import orders
from synpol.review.boxes import count_in, is_box, is_in, random_boxes
from synpol.review.found import Found, read_found, read_like
from synpol.review.known import Knowledge, Known
from synpol.review.matching import CHANGED, EXCHANGED, Opinion
from synpol.review.quality import Missed, agreement, quality
from synpol.review.sample import Sample, draw_sample, random_numbers
from synpol.review.store import VerdictStore
from synpol.review.verdicts import Point, Verdict

#: seconds for which what was given to one reviewer is not given to another
RESERVED = 300.0
#: synapses that are chosen at once as the most useful ones
USEFUL = 24
#: orders that are kept in memory, each with a number for every synapse
KEPT = 8
#: orders of the page, and what each shows
ORDERS = {
    "sample": "random sample, from which the estimate is made",
    "useful": "most useful next: uncertain, and unlike those judged",
    "score": "by score, lowest first",
    "best": "by score, highest first",
    "place": "by distance from a place",
    "neuron": "synapses of a neuron",
    "disagreement": "what other results see otherwise",
    "conflicts": "what reviewers dispute, or another decoding changed",
    "candidates": "candidates below the threshold, at random",
    "places": "random places, to be searched for missed synapses",
}
FOUND, CANDIDATE, PLACE = "found", "candidate", "place"
#: no synapses
NONE = Found(
    np.zeros(0, np.uint64), np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((0, 2), int), np.zeros(0)
)


@dataclass(frozen=True)
class Item:
    """Something to look at.

    Attributes
    ----------
    kind : str
        ``found``, ``candidate`` or ``place``.
    row : int
        Row of its table, or number of the place.
    """

    kind: str
    row: int


class Desk:
    """What reviewers of one result share.

    Parameters
    ----------
    store : VerdictStore
    table : Path
        Synapse table.
    low, high : (3,) arrays
        Corners of the volume, z, y, x; nm.
    box : (3,) array
        Size of a place to be searched, nm.
    settings : Review
    seed : int
        Seed of the sample and of the places.
    candidates : (Found, str), optional
        Candidates that are not in the table, and the SHA-256 of theirs.
    """

    def __init__(
        self,
        store: VerdictStore,
        table: Path,
        low: np.ndarray,
        high: np.ndarray,
        box: np.ndarray,
        settings: Review,
        seed: int = 0,
        candidates: tuple[Found, str] | None = None,
    ) -> None:
        self.store, self.table, self.settings, self.seed = store, table, settings, seed
        found, digest = read_found(table)
        self.has_candidates = candidates is not None
        others, other_digest = candidates or (NONE, "")
        self.tables = {FOUND: found, CANDIDATE: others}
        self.digests = {FOUND: digest, CANDIDATE: other_digest, PLACE: digest}
        self.boxes, self.box_count = random_boxes(low, high, box, settings.places, seed)
        self._lock = threading.RLock()
        self._samples: dict[str, Sample] = {}
        self._sorted: dict[tuple[str, str], np.ndarray] = {}
        self._offered: dict[Item, tuple[str, float]] = {}
        self._useful: tuple[int, np.ndarray] = (-USEFUL, np.zeros(0, np.int64))
        self._pool: tuple[np.ndarray, np.ndarray] | None = None
        self._partners: tuple[np.ndarray, np.ndarray] | None = None
        self._knowledge = Knowledge(store, found, others, (digest, other_digest), settings.distance)
        draw = random_numbers(found.pre, found.post, seed + 1)
        self._for_all = draw / 2.0**64 < settings.twice

    def known(self) -> Known:
        """Return what the verdicts say, as of now."""
        with self._lock:
            return self._knowledge.now()

    def everything(self) -> list[Verdict]:
        """Return all verdicts and undos."""
        with self._lock:
            return self._knowledge.everything()

    def sample(self, kind: str = FOUND) -> Sample:
        """Return the random sample of the synapses, or of the candidates."""
        with self._lock:
            if kind not in self._samples:
                table = self.tables[kind]
                self._samples[kind] = draw_sample(table, self.settings.strata, self.seed)
            return self._samples[kind]

    def orders(self) -> dict[str, str]:
        """Return the orders that this result has, with what each shows."""
        absent = set() if self.has_candidates else {"candidates"}
        if not self.table.with_name("partners.parquet").is_file():
            absent.add("neuron")
        if not self.settings.compare:
            absent.add("disagreement")
        return {name: text for name, text in ORDERS.items() if name not in absent}

    # ------------------------------------------------------------ one item

    def ends_of(self, item: Item) -> tuple[Point, Point]:
        """Return both ends of an item, z, y, x; nm. Of a place, its corners.

        Raises
        ------
        InputError
            There is no such item.
        """
        tables: dict[str, Any] = {**self.tables, PLACE: self.boxes}
        if item.kind not in tables or not 0 <= item.row < len(tables[item.kind]):
            raise InputError(f"there is no {item.kind!r:.20} {item.row} to look at")
        if item.kind == PLACE:
            first, last = self.boxes[item.row].tolist()
        else:
            table = self.tables[item.kind]
            first, last = table.pre[item.row].tolist(), table.post[item.row].tolist()
        return (first[0], first[1], first[2]), (last[0], last[1], last[2])

    def describe(self, item: Item) -> dict[str, Any]:
        """Describe an item for the page: what it is, and which verdicts it has."""
        pre, post = self.ends_of(item)
        about: dict[str, Any] = {
            "kind": item.kind,
            "row": item.row,
            "pre": pre,
            "post": post,
            "table_hash": self.digests[item.kind],
        }
        known = self.known()
        if item.kind == PLACE:
            box = self.boxes[item.row]
            searched = [v for v in known.verdicts if v.verdict == "seen" and is_box(v, box)]
            return about | {
                "given": [_given(v, v.verdict) for v in searched],
                "missed": [_given(v, v.verdict) for v in known.missed if is_in(v, box)],
            }
        table, sample = self.tables[item.kind], self.sample(item.kind)
        stratum = int(sample.stratum[item.row])
        opinions = known.found if item.kind == FOUND else known.candidates
        return about | {
            "synapse_id": int(table.number[item.row]),
            "score": float(table.score[item.row]),
            "pre_voxels": int(table.voxels[item.row, 0]),
            "post_voxels": int(table.voxels[item.row, 1]),
            "stratum": stratum,
            "stratum_size": int(sample.sizes[stratum]),
            "given": [_given(o.source, o.verdict) for o in opinions if o.row == item.row],
            "missed": [],
            "partners": self._partners_of(item),
        }

    def _partners_of(self, item: Item) -> list[int] | None:
        """Return the neurons on both sides of a synapse, 0 for none; None where nobody knows."""
        partners = self.table.with_name("partners.parquet")
        if item.kind != FOUND or not partners.is_file():
            return None
        if self._partners is None:
            self._partners = orders.partners_of(self.tables[FOUND], str(partners))
        return [int(side[item.row]) for side in self._partners]

    # ------------------------------------------------------------ what comes next

    def next_items(
        self,
        order: str,
        reviewer: str,
        count: int,
        given: Mapping[str, str],
        skip: Collection[Item] = (),
    ) -> list[Item]:
        """Return what a reviewer shall look at next, and keep it from others for some minutes.

        Parameters
        ----------
        order : str
            One of `orders`.
        reviewer : str
        count : int
            Most items.
        given : mapping
            What the order needs to know: ``z``, ``y``, ``x`` (nm), or ``neuron``.
        skip : collection of Item
            Items that the reviewer has already, or does not want.

        Raises
        ------
        InputError
            There is no such order, or it needs to know more.
        """
        with self._lock:
            known, now = self.known(), time.monotonic()
            avoid = set(skip) | self._judged_by(known, reviewer)
            others = {Item(FOUND, o.row) for o in known.found}
            others |= {Item(CANDIDATE, o.row) for o in known.candidates}
            chosen: list[Item] = []
            for item in self._ordered(order, given, known):
                if len(chosen) == count:
                    break
                if item in avoid:
                    continue
                if not (item.kind == FOUND and self._for_all[item.row]):
                    who, when = self._offered.get(item, (reviewer, now))
                    if who != reviewer and now - when < RESERVED:
                        continue
                    if order != "conflicts" and item in others:
                        continue
                self._offered[item] = reviewer, now
                chosen.append(item)
            return chosen

    def _judged_by(self, known: Known, reviewer: str) -> set[Item]:
        """Return what a reviewer need not look at again."""
        mine = {Item(FOUND, o.row) for o in known.found if _stays(o, reviewer)}
        mine |= {Item(CANDIDATE, o.row) for o in known.candidates if _stays(o, reviewer)}
        return mine | {Item(PLACE, number) for number in self._searched(known)}

    def _searched(self, known: Known) -> list[int]:
        """Return the numbers of the places that were searched."""
        numbers = {tuple(np.round(box.ravel(), 1)): k for k, box in enumerate(self.boxes)}
        boxes = [(*v.pre, *v.post) for v in known.verdicts if v.verdict == "seen"]
        found = {numbers.get(tuple(np.round(box, 1))) for box in boxes}
        return sorted(number for number in found if number is not None)

    def _ordered(self, order: str, given: Mapping[str, str], known: Known) -> Iterator[Item]:
        """Yield the items of an order, the first one first."""
        if order not in self.orders():
            raise InputError(
                f"there is no order {order!r:.40} here; there are {', '.join(self.orders())}"
            )
        if order == "places":
            yield from (Item(PLACE, number) for number in range(len(self.boxes)))
        elif order == "candidates":
            yield from (Item(CANDIDATE, row) for row in self._rows(order, given).tolist())
        elif order == "conflicts":
            rows = {o.row for o in known.found if o.tie in (CHANGED, EXCHANGED)}
            yield from (Item(FOUND, row) for row in sorted({*known.judged.disputed, *rows}))
        elif order == "useful":
            yield from (Item(FOUND, row) for row in self._most_useful(known).tolist())
        else:
            rows_ = self._rows(order, given)
            left = ~known.judged.seen | self._for_all
            yield from (Item(FOUND, int(row)) for row in rows_[left[rows_]])

    def _rows(self, order: str, given: Mapping[str, str]) -> np.ndarray:
        """Return the rows of an order that verdicts do not change; sorted once."""
        key = order, str(sorted(given.items()))
        if key not in self._sorted:
            if len(self._sorted) >= KEPT:
                del self._sorted[next(iter(self._sorted))]
            self._sorted[key] = self._sort(order, given)
        return self._sorted[key]

    def _sort(self, order: str, given: Mapping[str, str]) -> np.ndarray:
        found, distance = self.tables[FOUND], self.settings.distance
        if order in ("sample", "candidates"):
            return self.sample(FOUND if order == "sample" else CANDIDATE).order()
        if order in ("score", "best"):
            return orders.by_score(found, lowest_first=order == "score")
        if order == "place":
            return orders.by_place(found, [_number(given, axis) for axis in "zyx"])
        if order == "neuron":
            partners = str(self.table.with_name("partners.parquet"))
            return orders.by_neuron(found, partners, int(_number(given, "neuron")))
        tables = [Path(folder) / "synapses.parquet" for folder in self.settings.compare]
        return orders.by_disagreement(found, [read_found(t)[0] for t in tables], distance)

    def _most_useful(self, known: Known) -> np.ndarray:
        """Choose synapses anew after some verdicts."""
        count, chosen = self._useful
        judged = int(known.judged.seen.sum())
        if judged - count < USEFUL // 2:
            return chosen
        if self._pool is None:  # of very many synapses the same random ones all the time
            rows = np.sort(self.sample().order()[: orders.POOL])
            self._pool = rows, read_like(self.table, rows)
        rows, like = self._pool
        score = self.tables[FOUND].score[rows]
        right = known.judged.right[rows]
        told = np.flatnonzero(known.judged.seen[rows] & (right >= 0))
        useful = orders.most_useful(like, score, told, right[told] == 1, 2 * USEFUL)
        self._useful = judged, rows[useful]
        return self._useful[1]

    # ------------------------------------------------------------ how good it is

    def quality(self) -> dict[str, Any]:
        """Return what the verdicts say about the result; see `synpol.review.quality`."""
        known = self.known()
        searched = self._searched(known)
        whole = [k for place, k in enumerate(searched) if place == k]  # no place was left out
        missed = Missed(
            self.sample(CANDIDATE) if self.has_candidates else None,
            known.judged_candidates,
            [count_in(known.missed, self.boxes[k], self.settings.distance) for k in whole],
            self.box_count,
        )
        reasons = [reason for _, reason in known.loose]
        score, width = self.tables[FOUND].score, self.settings.width
        return quality(self.sample(), known.judged, score, missed, width) | {
            "verdicts": len(known.verdicts),
            "added": len(known.missed),
            "reviewers": sorted({v.reviewer for v in known.verdicts}),
            "agreement": agreement(known.found),
            "loose": {reason: reasons.count(reason) for reason in sorted(set(reasons))},
        }


def _stays(opinion: Opinion, reviewer: str) -> bool:
    """Whether this reviewer has judged a synapse as it is now."""
    return opinion.source.reviewer == reviewer and opinion.tie not in (CHANGED, EXCHANGED)


def _given(verdict: Verdict, said: str) -> dict[str, Any]:
    """Describe a verdict for the page."""
    return {
        "reviewer": verdict.reviewer,
        "verdict": said,
        "uuid": verdict.uuid,
        "note": verdict.note,
        "pre": verdict.pre,
        "post": verdict.post,
    }


def _number(given: Mapping[str, str], name: str) -> float:
    try:
        number = float(given[name])
    except (KeyError, ValueError):
        number = float("nan")
    if not np.isfinite(number):
        raise InputError(f"{name} is {given.get(name)!r:.40}; a number is expected")
    return number
