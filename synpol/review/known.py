"""What the verdicts of a store say about a result, kept up to date."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from synpol.review.found import Found
from synpol.review.matching import LOST, Matched, Opinion, opinions_of, tie_verdicts
from synpol.review.quality import Judged
from synpol.review.store import VerdictStore
from synpol.review.verdicts import OF_PLACES, OF_SYNAPSES, Verdict, standing


@dataclass(frozen=True)
class Known:
    """What is known after some verdicts.

    Attributes
    ----------
    verdicts : list of Verdict
        Verdicts that stand.
    found, candidates : list of Opinion
        What reviewers say about the synapses of the table, and about candidates.
    loose : list of (Verdict, str)
        Verdicts that belong to no synapse any more, with the reason.
    missed : list of Verdict
        Missed synapses that are still in no table.
    judged, judged_candidates : Judged
        What the reviewers agree on.
    """

    verdicts: list[Verdict]
    found: list[Opinion]
    candidates: list[Opinion]
    loose: list[tuple[Verdict, str]]
    missed: list[Verdict]
    judged: Judged
    judged_candidates: Judged


class Knowledge:
    """Verdicts of a store, tied to the synapses of a result.

    Parameters
    ----------
    store : VerdictStore
    found, candidates : Found
        Synapses of the table, and candidates that are not in it.
    digests : (str, str)
        SHA-256 of both tables.
    distance : float
        Largest distance of a side, nm.
    """

    def __init__(
        self,
        store: VerdictStore,
        found: Found,
        candidates: Found,
        digests: tuple[str, str],
        distance: float,
    ) -> None:
        self._store, self._distance = store, distance
        self._tables = (found, candidates)
        self._digests = digests
        self._last = 0
        self._everything: list[Verdict] = []
        self._ties: dict[str, tuple[int, int, int]] = {}  # table, row and tie of each verdict
        self._known: Known | None = None

    def now(self) -> Known:
        """Return what is known, with all verdicts that anybody has added so far."""
        new, self._last = self._store.read(self._last)
        if new or self._known is None:
            self._everything += new
            self._tie([v for v in new if v.verdict in OF_SYNAPSES or v.verdict == "missed"])
            self._known = self._collect()
        return self._known

    def everything(self) -> list[Verdict]:
        """Return all verdicts, those that were taken back and the undos too."""
        self.now()
        return list(self._everything)

    def _tie(self, verdicts: list[Verdict]) -> None:
        """Find the synapse of each new verdict: in the table, or else among the candidates."""
        for number, (table, digest) in enumerate(zip(self._tables, self._digests, strict=True)):
            other = self._digests[1 - number]
            told = [v for v in verdicts if not (other and v.table_hash == other)]
            open_ones = [v for v in told if self._ties.get(v.uuid, (0, -1, LOST))[2] == LOST]
            matched = tie_verdicts(table, open_ones, self._distance, digest)
            pairs = zip(open_ones, matched.row.tolist(), matched.tie.tolist(), strict=True)
            for one, row, tie in pairs:
                if tie != LOST or one.uuid not in self._ties:
                    self._ties[one.uuid] = number, row, tie

    def _collect(self) -> Known:
        verdicts = standing(self._everything)
        given: list[list[Verdict]] = [[], []]
        missed = []
        for one in verdicts:
            if one.verdict == "missed" and self._ties[one.uuid][2] == LOST:
                missed.append(one)
            elif one.verdict not in OF_PLACES:
                given[self._ties[one.uuid][0]].append(one)
        said = []
        for some in given:
            ties = [self._ties[v.uuid] for v in some]
            row, tie = (np.array([t[k] for t in ties], np.int64) for k in (1, 2))
            said.append(opinions_of(some, Matched(row, tie)))
        (found, loose), (candidates, loose_candidates) = said
        return Known(
            verdicts,
            found,
            candidates,
            loose + loose_candidates,
            missed,
            Judged.of(len(self._tables[0]), found),
            Judged.of(len(self._tables[1]), candidates),
        )
