"""Stage ``label``: the fragments of one block.

A block is read with a halo of the union in y and x, as far as the dilation looks, so that its part
of the dilated union is exactly that of the whole volume; nothing else needs a halo. It leaves
its voxels as one array of *states* (a number for every pair of local pre and post fragment that
occurs) and a record of the fragments behind the states.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr

from synpol.blockwise.fragments import (
    KEPT,
    KINDS,
    NONE,
    Node,
    Rows,
    Sides,
    States,
    Stats,
    Touching,
    to_arrays,
)
from synpol.blockwise.geometry import BlockGrid
from synpol.blockwise.records import Index, write_record
from synpol.blockwise.stage import Stage
from synpol.decoding import Threshold, components, dilate_in_plane, reach
from synpol.errors import InputError

VERSION = 1
#: fixed point of float probabilities in sums: exact, so that no order of summation matters
FLOAT_SCALE = 2**24


@dataclass(frozen=True)
class LabelStage(Stage):
    """Find the fragments of every block.

    Attributes
    ----------
    prediction : str
        Path or URL of the polarity array.
    states : str
        Path of the array of states.
    blocks : BlockGrid
    threshold : Threshold
    thres_small, dilate_sz : int
    sides : bool
    """

    prediction: str
    states: str
    blocks: BlockGrid
    threshold: Threshold
    thres_small: int
    dilate_sz: int
    sides: bool

    name = "label"

    @property
    def block_voxels(self) -> int:  # type: ignore[override]
        return int(np.prod(self.blocks.block))

    def start(self) -> Any:
        return zarr.open_array(self.prediction, mode="r"), zarr.open_array(self.states, mode="r+")

    def process(self, index: Index, loaded: Any) -> None:
        prediction, states = loaded
        begin, end = self.blocks.bounds(index)
        slices = self.blocks.slices(index)
        volume = read_checked(prediction, (slice(None), *slices), self.prediction)
        pre, post, union = self.threshold.foreground(volume)
        synapse = self._dilated_union(prediction, begin, end, union)
        local = _LocalLabels(self, index, volume, (synapse, pre, post, union))
        if local.state is not None:
            states[slices] = local.state
        write_record(self.folder, index, local.record)

    def _dilated_union(
        self, prediction: zarr.Array, begin: Index, end: Index, union: np.ndarray
    ) -> np.ndarray:
        below, above = reach(self.dilate_sz)
        shape = self.blocks.shape
        low = [max(0, b - below) for b in begin[1:]]
        high = [min(s, e + above) for s, e in zip(shape[1:], end[1:], strict=True)]
        inner = tuple(slice(b - a, e - a) for a, b, e in zip(low, begin[1:], end[1:], strict=True))
        padded = np.zeros(
            (end[0] - begin[0], *(h - a for a, h in zip(low, high, strict=True))), dtype=bool
        )
        padded[:, *inner] = union
        for halo in _halo(padded.shape[1:], inner):
            where = (
                slice(begin[0], end[0]),
                *(slice(a + s.start, a + s.stop) for a, s in zip(low, halo, strict=True)),
            )
            channels = slice(None) if self.threshold.exclusive else slice(2, 3)
            part = read_checked(prediction, (channels, *where), self.prediction)
            padded[:, *halo] = (
                self.threshold.union(part)
                if self.threshold.exclusive
                else part[0] > self.threshold.level
            )
        return dilate_in_plane(padded, self.dilate_sz)[:, *inner]


def read_checked(array: zarr.Array, where: tuple[slice, ...], path: str) -> np.ndarray:
    """Read part of a polarity array.

    Raises
    ------
    InputError
        A float value outside 0..1, or NaN; whether floats are 0..1 is a property of the array and
        is never decided by a part of it.
    """
    volume = np.asarray(array[where])
    if volume.dtype.kind == "f" and volume.size:
        low, high = float(volume.min()), float(volume.max())
        if not (low >= 0 and high <= 1):
            place = ", ".join(f"{s.start}:{s.stop}" for s in where[1:])
            raise InputError(
                f"{path} is a float array, which has to hold probabilities 0..1, but voxels "
                f"[{place}] hold {low:g}..{high:g}; store 0..255 as uint8, or divide by 255"
            )
    return volume


def _halo(shape: tuple[int, ...], inner: tuple[slice, ...]) -> list[tuple[slice, slice]]:
    """The frame around `inner` as up to four rectangles."""
    (height, width), (y, x) = shape, inner
    frame = [
        (slice(0, y.start), slice(0, width)),
        (slice(y.stop, height), slice(0, width)),
        (slice(y.start, y.stop), slice(0, x.start)),
        (slice(y.start, y.stop), slice(x.stop, width)),
    ]
    return [(a, b) for a, b in frame if a.stop > a.start and b.stop > b.start]


def _first_voxels(labels: np.ndarray) -> np.ndarray:
    """Where each label is met first; labels count up by that."""
    seen = np.maximum.accumulate(labels.astype(np.int64)) if len(labels) else labels
    return np.flatnonzero(np.diff(seen, prepend=0))


class _LocalLabels:
    """The labelings of one block and the record made of them."""

    def __init__(
        self,
        stage: LabelStage,
        index: Index,
        volume: np.ndarray,
        masks: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    ) -> None:
        self.stage, self.index, self.volume = stage, index, volume
        self.begin, _ = stage.blocks.bounds(index)
        dilated, pre, post, union = masks
        self.labels = {"synapse": components(dilated)[0]}
        if stage.sides:
            self.labels |= {"pre": components(pre)[0], "post": components(post)[0]}
        else:  # a synapse is its own only side; its size is that of its undilated union
            self.labels |= {"pre": self.labels["synapse"], "post": np.zeros_like(dilated, np.uint8)}
        self.state: np.ndarray | None = None
        # everything lies within the dilated union: from here on only its voxels are looked at
        self.at = np.flatnonzero(dilated)
        flat = {kind: self.labels[kind].ravel()[self.at] for kind in KINDS}
        first = {kind: _first_voxels(flat[kind]) for kind in KINDS}
        self.names = {kind: self._names(self.at[first[kind]]) for kind in KINDS}
        in_synapse = {kind: np.append(0, flat["synapse"][first[kind]]) for kind in ("pre", "post")}
        either = (flat["pre"] > 0) | (flat["post"] > 0)
        claimed = either if stage.sides else union.ravel()[self.at]
        local, stats = self._states({kind: flat[kind][claimed] for kind in KINDS}, self.at[claimed])
        sizes = {
            kind: np.bincount(
                local[kind], weights=stats.sums[:, 0], minlength=len(self.names[kind]) + 1
            ).astype(np.int64)
            for kind in ("pre", "post")
        }
        self.record = self._record(local, stats, sizes, in_synapse)

    def _names(self, first: np.ndarray) -> np.ndarray:
        """Names of fragments by their first voxels in the block."""
        voxel = np.unravel_index(first, self.volume.shape[1:])
        z, y, x = (
            v.astype(np.uint64) + np.uint64(b) for v, b in zip(voxel, self.begin, strict=True)
        )
        _, height, width = (np.uint64(s) for s in self.stage.blocks.shape)
        return (z * height + y) * width + x + np.uint64(1)

    def _states(
        self, flat: dict[str, np.ndarray], at: np.ndarray
    ) -> tuple[dict[str, np.ndarray], Stats]:
        """Number the pairs of pre and post labels that occur; their labels and statistics."""
        if not len(at):
            none = np.zeros(0, np.int64)
            return {kind: none for kind in KINDS}, Stats.empty()
        shape = self.volume.shape[1:]
        width = int(flat["post"].max()) + 1
        pair = flat["pre"].astype(np.int64) * width + flat["post"].astype(np.int64)
        pairs, state = np.unique(pair, return_inverse=True)
        order = np.argsort(state, kind="stable")
        starts = np.searchsorted(state[order], np.arange(len(pairs)))
        voxel = np.stack(np.unravel_index(at[order], shape), axis=1) + np.array(self.begin)
        values = self.volume.reshape(3, -1)[:, at[order]].T
        if values.dtype.kind == "f":
            values = np.rint(values.astype(np.float64) * FLOAT_SCALE)
        ones = np.ones((len(at), 1), np.int64)
        columns = np.concatenate([ones, voxel, values.astype(np.int64)], axis=1)
        stats = Stats(
            np.add.reduceat(columns, starts),
            np.minimum.reduceat(voxel, starts),
            np.maximum.reduceat(voxel, starts),
        )
        small = np.uint16 if len(pairs) < 2**16 - 1 else np.uint32
        self.state = np.zeros(shape, small)
        self.state.ravel()[at] = state + 1
        local = {"pre": pairs // width, "post": pairs % width}
        local["synapse"] = flat["synapse"][order[starts]].astype(np.int64)
        return local, stats

    def _record(
        self,
        local: dict[str, np.ndarray],
        stats: Stats,
        sizes: dict[str, np.ndarray],
        in_synapse: dict[str, np.ndarray],
    ) -> dict[str, np.ndarray]:
        faces = self._faces()
        names = {kind: np.append(NONE, self.names[kind]) for kind in KINDS}
        is_open, touching = {}, {}
        for row, kind in enumerate(KINDS):
            is_open[kind] = np.zeros(len(names[kind]), dtype=bool)
            pieces = []
            for face, table in faces.items():
                present = np.unique(table[1 + row])
                present = present[present > 0]
                is_open[kind][present] = True
                pieces.append((np.full(len(present), face, np.uint8), names[kind][present]))
            face_of = np.concatenate([f for f, _ in pieces] or [np.zeros(0, np.uint8)])
            fragment = np.concatenate([n for _, n in pieces] or [names[kind][:0]])
            nothing = names[kind][:0]
            touching[kind] = Touching(
                face_of, fragment, fragment, np.zeros(0, np.uint8), nothing, nothing
            )
        fate, open_sides = {}, {}
        for kind in ("pre", "post"):
            large = np.where(sizes[kind] >= self.stage.thres_small, KEPT, NONE)
            fate[kind] = np.where(is_open[kind], names[kind], large)
            fate[kind][0] = NONE
            which = np.flatnonzero(is_open[kind])
            of = names["synapse"][in_synapse[kind][which]]
            open_sides[kind] = Sides(names[kind][which], of, sizes[kind][which])
        mine = States(
            names["synapse"][local["synapse"]],
            fate["pre"][local["pre"]],
            fate["post"][local["post"]],
            stats,
        )
        settled = mine.settled()
        open_synapse = names["synapse"][is_open["synapse"]]
        goes_on = np.isin(settled.synapse, open_synapse)
        finished = names["synapse"][1:][~is_open["synapse"][1:]]
        node = Node(
            touching,
            open_synapse,
            open_sides,
            settled[np.flatnonzero(goes_on)],
            Rows.of(finished, settled[np.flatnonzero(~goes_on)]),
        )
        record = to_arrays(node)
        record |= {f"face.{face}": table for face, table in faces.items()}
        record |= {f"names.{kind}": names[kind] for kind in KINDS}
        record |= {"state.synapse": mine.synapse, "state.pre": mine.pre, "state.post": mine.post}
        return record

    def _faces(self) -> dict[int, np.ndarray]:
        """Labels on the faces shared with other blocks: position, synapse, pre, post; (4, n)."""
        tables = {}
        for axis in range(3):
            for high in (0, 1):
                neighbour = self.index[axis] + (1 if high else -1)
                if not 0 <= neighbour < self.stage.grid[axis]:
                    continue
                plane = [np.take(self.labels[k], -high, axis=axis).ravel() for k in KINDS]
                at = np.flatnonzero(plane[0])
                tables[2 * axis + high] = np.stack([at, *(p[at] for p in plane)]).astype(np.uint32)
        return tables
