"""What a reviewer says about a place, as a record that is never changed."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime

from synpol.errors import InputError

#: verdicts about a synapse of the table, with what each says
OF_SYNAPSES = {
    "right": "a synapse, and its sides are right",
    "flipped": "a synapse, but pre and post are exchanged",
    "not_synapse": "not a synapse",
    "merged": "several synapses under one number",
    "split": "a part of a synapse whose other part has another number",
    "outline": "a synapse with the right sides, but its outline is poor",
    "unsure": "cannot be told",
}
#: verdicts about a place where the table has no synapse
OF_PLACES = {
    "missed": "a synapse that is not in the table; its two points",
    "seen": "a box that was searched for missed synapses; its two corners",
}
UNDO = "undo"
KINDS = (*OF_SYNAPSES, *OF_PLACES, UNDO)
#: verdicts that call an object of the table a synapse
REAL = ("right", "flipped", "merged", "split", "outline")
#: longest name of a reviewer and longest note, characters
NAME_LENGTH, NOTE_LENGTH = 80, 2000

Point = tuple[float, float, float]


def new_id() -> str:
    """Return a new name of a verdict, unlike that of any other."""
    return uuid.uuid4().hex


def now() -> str:
    """Return the time in UTC, to the millisecond, as text that sorts by time."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A verdict of one reviewer.

    Attributes
    ----------
    verdict : str
        One of `KINDS`.
    reviewer : str
        Name of the person.
    pre, post : (float, float, float)
        Centroids of both sides, z, y, x; nm. A synapse with a single side has it twice. Of a box
        that was searched, the lower and the upper corner.
    pre_voxels, post_voxels : int
        Size of both sides; 0 where there is none.
    score : float or None
        Score of the synapse.
    synapse_id : int
        Number of the synapse in the table; 0 where the table has none.
    table_hash : str
        SHA-256 of the synapse table that was looked at.
    origin : str
        Order in which the synapse was shown.
    stratum, stratum_size : int or None
        Stratum of the random sample that the synapse belongs to, and the number of synapses in it.
    note : str
        Remark of the reviewer.
    undoes : str or None
        Verdict that an ``undo`` takes back.
    made_at : str
        Time, UTC.
    uuid : str
        Name of this verdict.
    """

    verdict: str
    reviewer: str
    pre: Point = (0.0, 0.0, 0.0)
    post: Point = (0.0, 0.0, 0.0)
    pre_voxels: int = 0
    post_voxels: int = 0
    score: float | None = None
    synapse_id: int = 0
    table_hash: str = ""
    origin: str = ""
    stratum: int | None = None
    stratum_size: int | None = None
    note: str = ""
    undoes: str | None = None
    made_at: str = field(default_factory=now)
    uuid: str = field(default_factory=new_id)

    def checked(self, what: str = "a verdict") -> Verdict:
        """Return this verdict, or say what is wrong with it.

        Raises
        ------
        InputError
            A value that no verdict can have.
        """
        fault = self._fault()
        if fault:
            raise InputError(f"{what}: {fault}")
        return self

    def _fault(self) -> str:
        if self.verdict not in KINDS:
            return f"verdict is {self.verdict!r:.40}; one of {', '.join(KINDS)} is expected"
        for name, longest in (("reviewer", NAME_LENGTH), ("note", NOTE_LENGTH)):
            text = getattr(self, name)
            if not isinstance(text, str) or len(text) > longest or not text.isprintable():
                return f"{name} is {text!r:.60}; text of at most {longest} characters is expected"
        if not self.reviewer.strip():
            return "reviewer is empty; a name is expected"
        for name in ("uuid", "made_at", "table_hash", "origin"):
            text = getattr(self, name)
            if not isinstance(text, str) or len(text) > NAME_LENGTH or not text.isprintable():
                return f"{name} is {text!r:.60}; a short text is expected"
        if not self.uuid:
            return "uuid is empty; a name of its own is expected"
        for name in ("pre", "post"):
            point = getattr(self, name)
            if len(point) != 3 or not all(math.isfinite(p) and abs(p) < 2**53 for p in point):
                return f"{name} is {point!r:.60}; z, y, x in nm are expected"
        for name in ("pre_voxels", "post_voxels", "synapse_id", "stratum", "stratum_size"):
            number = getattr(self, name)
            if number is not None and not 0 <= number < 2**63:
                return f"{name} is {number}; 0 or above is expected"
        if self.score is not None and not 0 <= self.score <= 1 + 1e-9:
            return f"score is {self.score}; 0 to 1 is expected"
        if (self.verdict == UNDO) != (self.undoes is not None):
            return "undoes is given by an undo, and by nothing else"
        return ""


#: columns of a verdict where it is a row: each point has three
COLUMNS = tuple(
    name
    for one in fields(Verdict)
    for name in (
        [f"{one.name}_{axis}" for axis in "zyx"] if one.name in ("pre", "post") else [one.name]
    )
)
NUMBERS = {"pre_voxels", "post_voxels", "synapse_id", "stratum", "stratum_size"}
REALS = {f"{side}_{axis}" for side in ("pre", "post") for axis in "zyx"} | {"score"}


def row_of(verdict: Verdict) -> tuple[object, ...]:
    """Return a verdict as values of `COLUMNS`."""
    values: list[object] = []
    for one in fields(Verdict):
        value = getattr(verdict, one.name)
        values += list(value) if one.name in ("pre", "post") else [value]
    return tuple(values)


def verdict_of(row: Sequence[object]) -> Verdict:
    """Return the verdict of values of `COLUMNS`."""
    named = dict(zip(COLUMNS, row, strict=True))
    for side in ("pre", "post"):
        named[side] = tuple(named.pop(f"{side}_{axis}") for axis in "zyx")
    return Verdict(**named)  # type: ignore[arg-type]


def standing(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Return the verdicts that nobody has taken back, in their order; without the undos."""
    everything = list(verdicts)
    undone = {one.undoes for one in everything if one.verdict == UNDO}
    return [one for one in everything if one.verdict != UNDO and one.uuid not in undone]
