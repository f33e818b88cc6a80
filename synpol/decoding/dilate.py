"""Stage ``dilate``: the dilated union of one block, and the fragments as the merge sees them.

The dilation looks past the block's border in y and x. What it needs from there are the rims that
the neighbours' label records hold, so no voxel of the polarity array is read again; nothing else
needs a halo.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from synpol.blockwise.grid import BlockGrid
from synpol.blockwise.records import Index, read_record
from synpol.blockwise.stage import VoxelStage
from synpol.decoding.fragments import (
    INSIDE,
    KEPT,
    KINDS,
    NONE,
    Contacts,
    Node,
    Sides,
    States,
    Touching,
    rows_of,
    to_arrays,
)
from synpol.decoding.label import first_of_each, states_of
from synpol.decoding.reference import components, dilate_in_plane, reach
from synpol.synapses.statistics import Stats, stats_from_arrays

VERSION = 2


@dataclass(frozen=True)
class DilateStage(VoxelStage):
    """Find the fragments of the dilated union in every block.

    Attributes
    ----------
    labelled : Path
        Records of `synpol.decoding.label.LabelStage`.
    blocks : BlockGrid
    thres_small, dilate_sz : int
    sides : bool
    """

    labelled: Path
    blocks: BlockGrid
    thres_small: int
    dilate_sz: int
    sides: bool

    name = "dilate"
    voxel_cost = 0.5

    def compute(self, index: Index, loaded: Any, given: Any) -> dict[str, np.ndarray]:
        record = read_record(self.labelled, index)
        state = states_of(record, self.blocks.shape_of(index))
        if self.dilate_sz == 1 and not self.sides:  # then the states are components of the union
            return _Fragments(self, index, record, state, state, record["first.pre"]).record
        synapse, first = components_and_first(self._dilated_union(index, state > 0))
        return _Fragments(self, index, record, state, synapse, first).record

    def _dilated_union(self, index: Index, union: np.ndarray) -> np.ndarray:
        below, above = reach(self.dilate_sz)
        begin, end = self.blocks.bounds(index)
        block, shape = self.blocks.block, self.blocks.shape
        low = (begin[0], max(0, begin[1] - below), max(0, begin[2] - below))
        high = (end[0], min(shape[1], end[1] + above), min(shape[2], end[2] + above))
        inner = tuple(slice(b - a, e - a) for a, b, e in zip(low, begin, end, strict=True))
        padded = np.zeros([h - a for a, h in zip(low, high, strict=True)], dtype=bool)
        padded[inner] = union
        near = (range(low[a] // block[a], (high[a] - 1) // block[a] + 1) for a in (1, 2))
        for y, x in itertools.product(*near):
            other = (index[0], y, x)
            if other != index:
                padded[tuple(self._rim(other, low, high))] = True
        if not padded.any():
            return np.zeros(union.shape, dtype=bool)
        return np.ascontiguousarray(dilate_in_plane(padded, self.dilate_sz)[inner])

    def _rim(self, other: Index, low: Index, high: Index) -> np.ndarray:
        """Union voxels of another block that lie in a region, as (3, n) places in it."""
        begin, _ = self.blocks.bounds(other)
        rim = read_record(self.labelled, other)["rim"]
        place = np.stack(np.unravel_index(rim, self.blocks.shape_of(other)))
        place += np.array(begin)[:, None] - np.array(low)[:, None]
        size = np.array(high)[:, None] - np.array(low)[:, None]
        return place[:, ((place >= 0) & (place < size)).all(axis=0)]


def components_and_first(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Label the components of a mask; also where each begins, in C order."""
    labels, _ = components(mask)
    at = np.flatnonzero(mask)
    return labels, at[first_of_each(labels.ravel()[at])]


class _Fragments:
    """The fragments of one block and the record made of them."""

    def __init__(
        self,
        stage: DilateStage,
        index: Index,
        labelled: dict[str, np.ndarray],
        state: np.ndarray,
        synapse: np.ndarray,
        first: np.ndarray,
    ) -> None:
        self.stage, self.index, self.labelled = stage, index, labelled
        self.state, self.synapse = state, synapse
        flat = synapse.ravel()
        stats = stats_from_arrays(labelled, "state")
        #: labels of each state, local to the block
        local = {"synapse": flat[labelled["state.first"]].astype(np.int64)}
        self.names = {"synapse": self._names(first)}
        in_synapse = {}
        for kind in ("pre", "post"):
            if stage.sides:
                local[kind] = labelled[f"state.{kind}"]
                self.names[kind] = self._names(labelled[f"first.{kind}"])
                in_synapse[kind] = np.append(0, flat[labelled[f"first.{kind}"]])
        if not stage.sides:  # a synapse is its own only side; its size is that of its union
            local |= {"pre": local["synapse"], "post": 0 * local["synapse"]}
            self.names |= {"pre": self.names["synapse"], "post": self._names(first[:0])}
            in_synapse = {"pre": np.arange(len(first) + 1), "post": np.zeros(1, np.int64)}
        self.local = local
        sizes = {
            kind: np.bincount(
                local[kind], weights=stats.voxels, minlength=len(self.names[kind])
            ).astype(np.int64)
            for kind in ("pre", "post")
        }
        self.record = self._record(stats, sizes, in_synapse)

    def _names(self, first: np.ndarray) -> np.ndarray:
        """Names of fragments by their first voxels in the block; `NONE` for label 0."""
        begin, _ = self.stage.blocks.bounds(self.index)
        voxel = np.unravel_index(first, self.state.shape)
        z, y, x = (v.astype(np.uint64) + np.uint64(b) for v, b in zip(voxel, begin, strict=True))
        _, height, width = (np.uint64(s) for s in self.stage.blocks.shape)
        return np.append(NONE, (z * height + y) * width + x + np.uint64(1))

    def _record(
        self, stats: Stats, sizes: dict[str, np.ndarray], in_synapse: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        faces, names, local = self._faces(), self.names, self.local
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
        settled, contacts = mine.settled(), self._contacts(mine).settled()
        open_synapse = names["synapse"][is_open["synapse"]]
        goes_on, stays = (np.isin(x.synapse, open_synapse) for x in (settled, contacts))
        finished = names["synapse"][1:][~is_open["synapse"][1:]]
        node = Node(
            touching,
            open_synapse,
            open_sides,
            settled[np.flatnonzero(goes_on)],
            contacts[np.flatnonzero(stays)],
            rows_of(finished, settled[np.flatnonzero(~goes_on)], contacts[np.flatnonzero(~stays)]),
        )
        record = to_arrays(node)
        record |= {f"face.{face}": table for face, table in faces.items()}
        record |= {f"names.{kind}": names[kind] for kind in KINDS}
        record |= {"state.synapse": mine.synapse, "state.pre": mine.pre, "state.post": mine.post}
        return record

    def _contacts(self, states: States) -> Contacts:
        """Where voxels of different states lie side by side."""
        ends = self.labelled["contact.states"]
        axis = np.full(len(ends), INSIDE, np.uint8)
        synapse = states.synapse[ends[:, 0]]
        faces = self.labelled["contact.faces"]
        return Contacts(synapse, states.pre[ends], states.post[ends], axis, faces)

    def _faces(self) -> dict[int, np.ndarray]:
        """Labels on the faces shared with other blocks: position, synapse, pre, post; (4, n)."""
        tables = {}
        of_state = {kind: np.append(0, self.local[kind]) for kind in ("pre", "post")}
        for axis in range(3):
            for high in (0, 1):
                neighbour = self.index[axis] + (1 if high else -1)
                if not 0 <= neighbour < self.stage.grid[axis]:
                    continue
                synapse = np.take(self.synapse, -high, axis=axis).ravel()
                at = np.flatnonzero(synapse)
                synapse = synapse[at]
                if self.stage.sides:
                    state = np.take(self.state, -high, axis=axis).ravel()[at]
                    sides = [of_state[kind][state] for kind in ("pre", "post")]
                else:
                    sides = [synapse, 0 * synapse]
                tables[2 * axis + high] = np.stack([at, synapse, *sides]).astype(np.uint32)
        return tables
