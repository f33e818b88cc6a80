"""Stage ``dilate``: dilate the union of one block, and list the fragments that the merge joins.

The dilation looks past the border of the block, in y and x by default, and in z where its box has
several sections. What it needs from there are the rims in the label records of the neighbours, so
no voxel of the polarity array is read again. Nothing else needs a halo.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from synpol.blockwise.records import Index, read_record, stored
from synpol.blockwise.stage import VoxelStage
from synpol.decoding.dilation import Box, halo
from synpol.decoding.fragments import (
    INSIDE,
    KEPT,
    KINDS,
    NONE,
    Claims,
    Contacts,
    MergeNode,
    Sides,
    Touching,
)
from synpol.decoding.label import LabelRecord
from synpol.decoding.runs import RowRuns, component_labels, first_of_each


@dataclass
class StateNames:
    """Names of the fragments that claim the voxels of each state of a block.

    Attributes
    ----------
    synapse, pre, post : (n,) uint64
        Names; `pre` and `post` may be `KEPT` or `NONE`.
    """

    synapse: np.ndarray
    pre: np.ndarray
    post: np.ndarray


@dataclass
class Faces:
    """What the neighbours of a block need to know of its faces.

    Attributes
    ----------
    face : dict of int to (4, n) uint32
        For each face that the block shares, by its number (``2 * axis``, plus 1 for the high face):
        position on the face, and labels of synapse, pre and post fragment there.
    names : dict of kind to (n,) uint64
        Name of each label.
    """

    face: dict[int, np.ndarray]
    names: dict[str, np.ndarray]


@dataclass
class DilateRecord:
    """Record of a block: its node of the merge, its faces, and the names of its states."""

    node: MergeNode = field(metadata=stored(""))
    faces: Faces = field(metadata=stored(""))
    state: StateNames = field(metadata=stored())


@dataclass
class _Rim:
    """The rim of a label record alone."""

    rim: np.ndarray


@dataclass(frozen=True)
class DilateStage(VoxelStage[None, None, DilateRecord]):
    """Find the fragments of the dilated union in every block.

    Attributes
    ----------
    labelled : Path
        Folder of the records of `synpol.decoding.label.LabelStage`.
    blocks : BlockGrid
        Blocks of the volume.
    thres_small : int
        Number of voxels that a side has at least.
    dilate_sz : int or 3 ints
        Box of the dilation, voxels; see `synpol.decoding.dilation.Box`.
    sides : bool
        Whether the data has sides.
    """

    labelled: Path
    thres_small: int
    dilate_sz: Box
    sides: bool

    name = "dilate"
    reads = "its own runs, the rims of its neighbours within the box of the dilation"
    leaves = "fragments, and the faces that they touch"
    version = 2
    voxel_cost = 0.1
    seconds_per_voxel = 5e-10

    def compute(self, index: Index, opened: None, given: None) -> DilateRecord:
        record = read_record(self.labelled, index, LabelRecord)
        shape = self.blocks.shape_of(index)
        union, _ = RowRuns.cut(*record.run.ranges(), shape)
        synapses = self._dilated_union(index, union)
        ends = [(one, other) for one, other, _ in synapses.contacts(shape)]
        one, other = (np.concatenate(end) for end in zip(*ends, strict=True))
        label = component_labels(len(synapses.x), one, other)
        return _Fragments(self, index, record, synapses, label).record()

    def _dilated_union(self, index: Index, union: RowRuns) -> RowRuns:
        below, above = halo(self.dilate_sz)
        begin, end = self.blocks.bounds(index)
        block, shape = self.blocks.block, self.blocks.shape
        low = _index(max(0, a - n) for a, n in zip(begin, below, strict=True))
        high = _index(min(s, e + n) for s, e, n in zip(shape, end, above, strict=True))
        inner = _index(b - a for a, b in zip(low, begin, strict=True))
        region = _index(h - a for a, h in zip(low, high, strict=True))
        parts = [union.moved(inner)]
        near = (range(low[a] // block[a], (high[a] - 1) // block[a] + 1) for a in range(3))
        for z, y, x in itertools.product(*near):
            other = (z, y, x)
            if other != index:
                parts.append(RowRuns.of_voxels(self._rim(other, low, high)))
        dilated = RowRuns.joined(parts).dilated(self.dilate_sz, region)
        return dilated.cropped(inner, self.blocks.shape_of(index))

    def _rim(self, other: Index, low: tuple[int, ...], high: tuple[int, ...]) -> np.ndarray:
        """Find the union voxels of another block in a region, as (3, n) places in the region."""
        begin, _ = self.blocks.bounds(other)
        rim = read_record(self.labelled, other, _Rim).rim
        place = np.stack(np.unravel_index(rim, self.blocks.shape_of(other)))
        place += np.array(begin)[:, None] - np.array(low)[:, None]
        size = np.array(high)[:, None] - np.array(low)[:, None]
        return place[:, ((place >= 0) & (place < size)).all(axis=0)]


def _index(numbers: Iterable[int]) -> Index:
    z, y, x = numbers
    return z, y, x


class _Fragments:
    """The fragments of one block, and the record that is made of them."""

    def __init__(
        self,
        stage: DilateStage,
        index: Index,
        labelled: LabelRecord,
        runs: RowRuns,
        label: np.ndarray,
    ) -> None:
        self.stage, self.index, self.labelled = stage, index, labelled
        self.shape = stage.blocks.shape_of(index)
        self.runs, self.label = runs, label
        states, first = labelled.state, runs.first(self.shape)[first_of_each(label)]
        #: for each kind, the label of each state; labels are local to the block
        self.local = {"synapse": self._synapse_at(states.first)}
        #: for each kind, the name of each label
        self.names = {"synapse": self._names(first)}
        #: for each side, the synapse label in which each label of the side lies
        self.in_synapse = {}
        for kind, labels in (("pre", states.pre), ("post", states.post)):
            if stage.sides:
                self.local[kind] = labels
                self.names[kind] = self._names(labelled.first[kind])
                self.in_synapse[kind] = np.append(0, self._synapse_at(labelled.first[kind]))
        if not stage.sides:  # a synapse is its own only side; its size is that of its union
            synapses = self.local["synapse"]
            self.local |= {"pre": synapses, "post": 0 * synapses}
            self.names |= {"pre": self.names["synapse"], "post": self._names(first[:0])}
            self.in_synapse = {"pre": np.arange(len(first) + 1), "post": np.zeros(1, np.int64)}

    def _synapse_at(self, voxels: np.ndarray) -> np.ndarray:
        """Return the label of the synapse of each union voxel (an index in the block)."""
        return self.label[self.runs.at(voxels, self.shape)]

    def _names(self, first: np.ndarray) -> np.ndarray:
        """Name fragments by their first voxels in the block; label 0 gets `NONE`."""
        begin, _ = self.stage.blocks.bounds(self.index)
        voxel = np.unravel_index(first, self.shape)
        z, y, x = (v.astype(np.uint64) + np.uint64(b) for v, b in zip(voxel, begin, strict=True))
        _, height, width = (np.uint64(s) for s in self.stage.blocks.shape)
        return np.append(NONE, (z * height + y) * width + x + np.uint64(1))

    def record(self) -> DilateRecord:
        """Divide the fragments into open and finished ones."""
        faces = self._faces()
        is_open, touching = {}, {}
        for row, kind in enumerate(KINDS):
            is_open[kind], touching[kind] = self._touching(faces, row, kind)
        resolved, open_sides = {}, {}
        for kind in ("pre", "post"):
            resolved[kind], open_sides[kind] = self._sides(kind, is_open[kind])
        names, local = self.names["synapse"], self.local
        state = StateNames(
            names[local["synapse"]], resolved["pre"][local["pre"]], resolved["post"][local["post"]]
        )
        claims = Claims(state.synapse, state.pre, state.post, self.labelled.state.stats)
        node = MergeNode.of(
            touching=touching,
            open_sides=open_sides,
            open_synapse=names[is_open["synapse"]],
            finished=names[1:][~is_open["synapse"][1:]],
            claims=claims.reduced(),
            contacts=self._contacts(state).reduced(),
        )
        return DilateRecord(node, Faces(faces, self.names), state)

    def _touching(
        self, faces: dict[int, np.ndarray], row: int, kind: str
    ) -> tuple[np.ndarray, Touching]:
        """Find the labels of one kind that touch shared faces, and where they do."""
        names = self.names[kind]
        is_open = np.zeros(len(names), dtype=bool)
        face_of, fragments = [np.zeros(0, np.uint8)], [names[:0]]
        for face, table in faces.items():
            present = np.unique(table[1 + row])
            present = present[present > 0]
            is_open[present] = True
            face_of.append(np.full(len(present), face, np.uint8))
            fragments.append(names[present])
        fragment, nothing = np.concatenate(fragments), names[:0]
        no_axis = np.zeros(0, np.uint8)
        touching = Touching(
            face=np.concatenate(face_of),
            fragment=fragment,
            component=fragment,
            contact_axis=no_axis,
            contact_own=nothing,
            contact_other=nothing,
        )
        return is_open, touching

    def _sides(self, kind: str, is_open: np.ndarray) -> tuple[np.ndarray, Sides]:
        """Say what is known of each side label: its name while it is open, else whether kept."""
        names = self.names[kind]
        voxels = self.labelled.state.stats.voxels
        size = np.bincount(self.local[kind], weights=voxels, minlength=len(names)).astype(np.int64)
        large = np.where(size >= self.stage.thres_small, KEPT, NONE)
        resolved = np.where(is_open, names, large)
        resolved[0] = NONE
        which = np.flatnonzero(is_open)
        synapse = self.names["synapse"][self.in_synapse[kind][which]]
        return resolved, Sides(names[which], synapse, size[which])

    def _contacts(self, states: StateNames) -> Contacts:
        """Find where voxels of different states lie side by side."""
        contact = self.labelled.contact
        axis = np.full(len(contact.states), INSIDE, np.uint8)
        synapse = states.synapse[contact.states[:, 0]]
        pre, post = states.pre[contact.states], states.post[contact.states]
        return Contacts(synapse, pre, post, axis, contact.faces)

    def _faces(self) -> dict[int, np.ndarray]:
        """Read the labels on the faces that are shared with other blocks; see `Faces`."""
        tables = {}
        of_state = {kind: np.append(0, self.local[kind]) for kind in ("pre", "post")}
        for axis in range(3):
            for high in (0, 1):
                neighbour = self.index[axis] + (1 if high else -1)
                if not 0 <= neighbour < self.stage.grid[axis]:
                    continue
                run, at, voxel = self.runs.on_face(axis, bool(high), self.shape)
                synapse = self.label[run]
                if self.stage.sides:
                    state = self.labelled.run.state_at(voxel)
                    sides = [of_state[kind][state] for kind in ("pre", "post")]
                else:
                    sides = [synapse, 0 * synapse]
                tables[2 * axis + high] = np.stack([at, synapse, *sides]).astype(np.uint32)
        return tables
