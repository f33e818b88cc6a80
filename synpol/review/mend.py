"""Make a new version of a result by its verdicts, and labels to learn from; the old one stays.

What reviewers call no synapse is left out, exchanged sides are exchanged back, parts of a synapse
are joined, and several synapses under one number are taken apart (`synpol.review.pieces`). Labels
to learn from hold what was judged; everything else is unknown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from synpol.blockwise.image_stage import ImageStage, OpenImages
from synpol.blockwise.records import Index
from synpol.files import whole_file
from synpol.polarity import UNKNOWN, partner_of, split_labels
from synpol.review.apart import Separation, taken_apart
from synpol.review.found import Found
from synpol.review.known import Known
from synpol.review.pieces import Pieces, joined_labels
from synpol.review.verdicts import Verdict
from synpol.review.volumes import volumes_of
from synpol.synapses.links import PLACES
from synpol.synapses.reading import parts_of
from synpol.synapses.table import write_synapses

#: nm around a judged synapse where what is no synapse is known to be none
MARGIN = 100.0
#: nm around the middle of a missed synapse where nothing is known
MISSED_RADIUS = 300.0


@dataclass(frozen=True)
class Decisions:
    """What verdicts do to the synapses of a table, by number; each ascending.

    Attributes
    ----------
    removed : tuple of int
        Those that are no synapses, or lie below a cutoff of the score.
    turned : tuple of int
        Those whose sides are exchanged.
    kept : tuple of int
        Other synapses that reviewers call right enough to learn from.
    """

    removed: tuple[int, ...]
    turned: tuple[int, ...]
    kept: tuple[int, ...]


def decide(found: Found, known: Known, cutoff: float = 0.0) -> Decisions:
    """Say what happens to each synapse.

    Parameters
    ----------
    found : Found
    known : Known
        Verdicts; where reviewers disagree as many against as many, nothing happens.
    cutoff : float
        Score below which synapses are removed that nobody calls real.
    """
    judged = known.judged
    removed = judged.real == 0
    removed |= (found.score < cutoff) & (judged.real != 1)
    turned = (judged.real == 1) & (judged.sides == 0)
    poor = np.zeros(len(found), bool)
    poor[[o.row for o in known.found if o.verdict == "outline"]] = True
    kept = (judged.real == 1) & (judged.sides == 1) & ~poor
    return Decisions(*(tuple(found.number[mask].tolist()) for mask in (removed, turned, kept)))


def mended_labels(labels: np.ndarray, decisions: Decisions, sides: bool) -> np.ndarray:
    """Return labels without the synapses that are removed, and with exchanged sides turned."""
    synapse = split_labels(labels)[0] if sides else labels
    made = np.where(_among(synapse, decisions.removed), labels.dtype.type(0), labels)
    if sides:
        turned = _among(synapse, decisions.turned)
        made[turned] = partner_of(labels[turned])
    return made


def _among(synapse: np.ndarray, numbers: tuple[int, ...]) -> np.ndarray:
    return np.isin(synapse, np.array(numbers, synapse.dtype))


@dataclass(frozen=True, kw_only=True)
class MendStage(ImageStage):
    """Write every block of the new version of the instances.

    Attributes
    ----------
    removed, turned : tuple of int
        As in `Decisions`.
    pieces : Pieces
        What is joined and what is taken apart.
    how : Separation
        How it is taken apart.
    polarity : str
        Array that tells where; not read where nothing is taken apart.
    """

    removed: tuple[int, ...]
    turned: tuple[int, ...]
    pieces: Pieces
    how: Separation
    polarity: str

    name = "instances"
    version = 1
    voxel_cost = 20

    def transform(self, voxels: np.ndarray) -> np.ndarray:
        raise NotImplementedError("pieces of a synapse depend on the place of a block")

    def compute(self, index: Index, opened: OpenImages, given: np.ndarray) -> np.ndarray | None:
        if not given.any():
            return None
        begin, _ = self.blocks.bounds(index)
        made = mended_labels(given, Decisions(self.removed, self.turned, ()), self.how.sides)
        made = joined_labels(made, self.pieces, self.how.sides)
        volumes = None
        for one in self.pieces.apart:
            for low, high in _within((one.box,), begin, given.shape):
                volumes = volumes or volumes_of(self.source, self.polarity)
                labels, new = taken_apart(volumes, one, self.how)
                part = tuple(map(slice, low, high))
                first = np.subtract(begin, one.box[:3])
                inner = tuple(map(slice, first + low, first + high))
                own = labels[inner] != new[inner]
                made[part][own] = new[inner][own]
        return made if made.any() else None


@dataclass(frozen=True, kw_only=True)
class LabelStage(ImageStage):
    """Write every block of labels to learn from.

    Attributes
    ----------
    removed, turned, kept : tuple of int
        As in `Decisions`.
    sides : bool
        Whether labels are 2n-1 and 2n instead of n.
    boxes, unknown : tuple of 6 ints each
        First voxels and ends, z, y, x, of boxes in which what is no synapse is known, and of boxes
        in which it is not, whatever the others say.
    """

    removed: tuple[int, ...]
    turned: tuple[int, ...]
    kept: tuple[int, ...]
    sides: bool
    boxes: tuple[tuple[int, ...], ...]
    unknown: tuple[tuple[int, ...], ...]

    name = "truth"
    version = 1
    voxel_cost = 30
    dtype = np.uint64

    def transform(self, voxels: np.ndarray) -> np.ndarray:
        raise NotImplementedError("labels to learn from depend on the place of a block")

    def compute(self, index: Index, opened: OpenImages, given: np.ndarray) -> np.ndarray | None:
        begin, _ = self.blocks.bounds(index)
        known = np.zeros(given.shape, bool)
        for boxes, value in ((self.boxes, True), (self.unknown, False)):
            for low, high in _within(boxes, begin, given.shape):
                known[tuple(map(slice, low, high))] = value
        labels = given.astype(np.uint64)
        synapse = split_labels(labels)[0] if self.sides else labels
        own = _among(synapse, self.kept) | _among(synapse, self.turned)
        none = _among(synapse, self.removed) | ((labels == 0) & known)
        made = mended_labels(labels, Decisions(self.removed, self.turned, ()), self.sides)
        block = np.where(own, made, np.where(none, np.uint64(0), np.uint64(UNKNOWN)))
        return block if block.any() else None


def _within(
    boxes: tuple[tuple[int, ...], ...], begin: Index, shape: tuple[int, ...]
) -> Iterator[tuple[list[int], list[int]]]:
    """Yield the parts of boxes that lie in a block, in its own voxels."""
    every = np.array(boxes, np.int64).reshape(-1, 2, 3) - np.array(begin)
    low, high = np.maximum(every[:, 0], 0), np.minimum(every[:, 1], shape)
    for row in np.flatnonzero((low < high).all(axis=1)):
        yield low[row].tolist(), high[row].tolist()


def voxel_boxes(
    low: np.ndarray, high: np.ndarray, offset: np.ndarray, size: np.ndarray
) -> tuple[tuple[int, ...], ...]:
    """Return boxes (n, 3; nm) as first voxels and ends; voxels that are cut belong to them."""
    first = np.floor((low - offset) / size + 1e-6).astype(np.int64)
    last = np.ceil((high - offset) / size - 1e-6).astype(np.int64)
    return tuple(map(tuple, np.concatenate([first, last], axis=1).tolist()))


def known_boxes(table: Path, known: Known, decisions: Decisions) -> np.ndarray:
    """Return the boxes in which what is no synapse is known, (n, 2, 3), z, y, x; nm.

    These are the surroundings of synapses that were judged, and places that were searched.
    """
    numbers = pa.array([*decisions.removed, *decisions.turned, *decisions.kept], pa.uint64())
    names = [f"bbox_{axis}_{end}" for end in ("min", "max") for axis in "zyx"]
    boxes = [np.array([(v.pre, v.post) for v in known.verdicts if v.verdict == "seen"])]
    for rows in parts_of(table, ["synapse_id", *names]):
        some = rows.filter(pc.is_in(rows["synapse_id"], value_set=numbers))
        box = np.stack([some[name].to_numpy() for name in names], axis=1).reshape(-1, 2, 3)
        boxes.append(box + np.array([[-MARGIN], [MARGIN]]))
    return np.concatenate([box.reshape(-1, 2, 3) for box in boxes])


def real_candidates(known: Known) -> list[Verdict]:
    """Return the verdicts about candidates below the threshold that are synapses.

    The label volume has no voxels of them, so they count as missed ones do.
    """
    real = known.judged_candidates.real
    return [one.source for one in known.candidates if real[one.row] == 1]


def unknown_boxes(missed: list[Verdict]) -> np.ndarray:
    """Return the boxes around missed synapses, whose voxels nobody has drawn, (n, 2, 3); nm."""
    middle = np.array([(np.array(v.pre) + v.post) / 2 for v in missed]).reshape(-1, 1, 3)
    return middle + np.array([[-MISSED_RADIUS], [MISSED_RADIUS]])


def write_mended(
    table: Path, path: Path, decisions: Decisions, sides: bool, pieces: Pieces, new: pa.Table
) -> int:
    """Write the new version of a synapse table.

    The values of both sides of a turned synapse are exchanged, their scores too: these stay the
    probabilities that the network gave to the voxels.

    Parameters
    ----------
    table, path : Path
        Table to read and table to write.
    decisions : Decisions
    sides : bool
        Whether labels are 2n-1 and 2n instead of n.
    pieces : Pieces
        What is joined and what is taken apart.
    new : pyarrow.Table
        Rows of these, of `rows_of_pieces`.

    Returns
    -------
    int
        Number of rows.
    """
    changed = [number for number, _ in pieces.joined] + [one.number for one in pieces.apart]
    removed = pa.array([*decisions.removed, *changed], pa.uint64())
    turned = np.array(decisions.turned, np.uint64)

    def parts() -> Iterator[pa.Table]:
        done, ids = 0, new["synapse_id"].to_numpy()
        for rows in parts_of(table):
            left = rows.filter(pc.invert(pc.is_in(rows["synapse_id"], value_set=removed)))
            part = _turned(left, np.isin(left["synapse_id"].to_numpy(), turned))
            end = int(np.searchsorted(ids, rows["synapse_id"][-1].as_py(), "right"))
            if end > done:
                some = new.slice(done, end - done).select(part.column_names)
                part = pa.concat_tables([part, some]).sort_by("synapse_id")
            done = end
            yield part
        yield new.slice(done)

    return write_synapses(path, parts(), sides)


def _turned(rows: pa.Table, mask: np.ndarray) -> pa.Table:
    """Exchange the columns of both sides in some rows."""
    if not mask.any():
        return rows
    chosen, columns = pa.array(mask.tolist()), {}
    for name in rows.column_names:
        column = rows[name]
        side, _, rest = name.partition("_")
        if side in ("pre", "post"):
            other = rows[f"{'post' if side == 'pre' else 'pre'}_{rest}"]
        elif name.startswith("direction_"):
            other = pc.negate(column)
        else:
            other = column
        columns[name] = pc.if_else(chosen, other, column)
    return pa.table(columns, schema=rows.schema)


def write_missed(path: Path, missed: list[Verdict]) -> int:
    """Write the missed synapses as a table of links, which `prepare.links` reads."""
    places = np.array([[*v.pre, *v.post] for v in missed]).reshape(-1, 6)
    table = pa.table({name: places[:, k] for k, name in enumerate(PLACES)})
    with whole_file(path) as temporary:
        pq.write_table(table, temporary)
    return len(missed)
