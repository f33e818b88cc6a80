"""Stage ``label``: find the fragments of the sides in one block.

This is the only stage that reads the polarity array, and it reads each chunk once. The record of a
block holds its union voxels as runs along x. Each run has a *state*: a number for each pair of a
local pre fragment and a local post fragment that occurs. The record also holds sums over the voxels
of each state, and the *rim*: the union voxels at which the dilation of a neighbouring block looks
(`synpol.decoding.dilate`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from synpol.blockwise.records import Index, stored
from synpol.blockwise.stage import VoxelStage
from synpol.decoding.dilation import Box, halo
from synpol.decoding.probabilities import as_probabilities, counted_channels
from synpol.decoding.reference import Threshold
from synpol.decoding.runs import RowRuns, component_labels, first_of_each
from synpol.images.reading import read_voxels
from synpol.polarity import Channels
from synpol.synapses.statistics import Stats

if TYPE_CHECKING:
    import zarr

#: fixed point of float probabilities in sums: exact, so that the order of summation never matters
FLOAT_SCALE = 2**24


@dataclass
class Runs:
    """Union voxels of a block as runs along x, in C order.

    Attributes
    ----------
    start, length : (n,) unsigned integers
        First voxel of each run, as an index in the C order of the block; and its voxels.
    state : (n,) unsigned integers
        State of the voxels of each run.
    """

    start: np.ndarray
    length: np.ndarray
    state: np.ndarray

    def ranges(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the first voxel and the number of voxels of each run, as int64."""
        return self.start.astype(np.int64), self.length.astype(np.int64)

    def state_at(self, voxels: np.ndarray) -> np.ndarray:
        """Return 1 + the state of each voxel (an index in the C order of the block), 0 outside."""
        if not len(self.start):
            return np.zeros(len(voxels), np.int64)
        start, length = self.ranges()
        run = np.maximum(np.searchsorted(start, voxels, "right") - 1, 0)
        inside = (voxels >= start[run]) & (voxels < start[run] + length[run])
        return np.where(inside, self.state[run].astype(np.int64) + 1, 0)


@dataclass
class LocalStates:
    """Pairs of a pre fragment and a post fragment that occur in a block.

    Attributes
    ----------
    pre, post : (n,) int64
        Labels of the two fragments in the block; 0 where there is none.
    first : (n,) int64
        First voxel of each state, as an index in the C order of the block.
    stats : Stats
        Statistics of the voxels of each state.
    """

    pre: np.ndarray
    post: np.ndarray
    first: np.ndarray
    stats: Stats = field(metadata=stored(""))


@dataclass
class LocalContacts:
    """Pairs of states whose voxels lie side by side, one with a pre and one with a post label.

    Attributes
    ----------
    states : (n, 2) int64
        The two states.
    faces : (n, 3) int64
        Number of voxel faces between them, across z, y and x.
    """

    states: np.ndarray
    faces: np.ndarray


@dataclass
class LabelRecord:
    """Record of a block: its union voxels and the fragments of its sides.

    Attributes
    ----------
    first : dict of "pre" and "post" to (n,) int64
        First voxel of each fragment, as an index in the C order of the block.
    state : LocalStates
        The states.
    run : Runs
        The union voxels.
    contact : LocalContacts
        Contacts between states.
    rim : (n,) int64
        Voxels at which the dilation of other blocks looks.
    """

    first: dict[str, np.ndarray]
    state: LocalStates
    run: Runs
    contact: LocalContacts
    rim: np.ndarray


@dataclass(frozen=True)
class LabelStage(VoxelStage["zarr.Array", np.ndarray, LabelRecord]):
    """Find the fragments of the sides in every block.

    Attributes
    ----------
    prediction : str
        Path or URL of the polarity array.
    voxel_bytes : int
        Number of bytes of a voxel of that array, all channels together.
    blocks : BlockGrid
        Blocks of the volume.
    threshold : Threshold
        Rule that makes a voxel foreground.
    dilate_sz : int or 3 ints
        Box of the dilation, voxels; see `synpol.decoding.dilation.Box`.
    sides : bool
        Whether the data has sides; if not, components of the union take the place of the sides.
    """

    prediction: str
    voxel_bytes: int
    threshold: Threshold
    dilate_sz: Box
    sides: bool

    name = "label"
    reads = "its voxels of polarity, once"
    leaves = "runs of its union voxels, sums over them, its rim"
    version = 3
    voxel_cost = 0.5
    seconds_per_voxel = 3.7e-9

    @property
    def bytes_read(self) -> int:
        return int(np.prod(self.blocks.shape)) * self.voxel_bytes

    def open(self) -> zarr.Array:
        from synpol.images.image import open_voxels

        return open_voxels(self.prediction, channels=Channels.count)

    def read(self, index: Index, opened: zarr.Array) -> np.ndarray:
        channels = counted_channels(self.sides, self.threshold.exclusive)
        return read_checked(opened, (channels, *self.blocks.slices(index)), self.prediction)

    def compute(self, index: Index, opened: zarr.Array, given: np.ndarray) -> LabelRecord:
        volume, shape = given, self.blocks.shape_of(index)
        at = np.flatnonzero(self.threshold.union(volume))
        values = volume.reshape(len(volume), -1)[:, at]
        sides = np.ones(len(at), np.uint8)  # 1: pre, 2: post, 3: both
        if self.sides:
            pre, post, _ = self.threshold.foreground(values)
            sides = pre + 2 * post.astype(np.uint8)
        begins = _begins(at, sides)
        length = np.diff(np.append(begins, len(at)))
        run, of = RowRuns.cut(at[begins], length, shape)
        side = sides[begins][of]
        contacts = list(run.contacts(shape))
        label, first = {}, {}
        for kind, bit in (("pre", 1), ("post", 2)):
            label[kind], first[kind] = _side_components(run, side & bit > 0, contacts, shape)
        states, state = _local_states(label, run, values, self.blocks.bounds(index)[0], shape)
        return LabelRecord(
            first=first,
            state=states,
            run=_runs(run, state, shape),
            contact=_local_contacts(run, state, states, contacts),
            rim=self._rim(index, at),
        )

    def _rim(self, index: Index, at: np.ndarray) -> np.ndarray:
        """Find the union voxels at which the dilation of other blocks looks."""
        seen = np.zeros(len(at), dtype=bool)
        shape = self.blocks.shape_of(index)
        for axis, (below, above) in enumerate(zip(*halo(self.dilate_sz), strict=True)):
            if not (below or above):
                continue
            place = at // math.prod(shape[axis + 1 :]) % shape[axis]
            if index[axis] > 0:
                seen |= place < above
            if index[axis] + 1 < self.grid[axis]:
                seen |= place >= shape[axis] - below
        return at[seen]


def read_checked(array: zarr.Array, where: tuple[slice, ...], path: str) -> np.ndarray:
    """Read part of a polarity array.

    Raises
    ------
    InputError
        A float value that is no probability; see `as_probabilities`. Whether floats are 0..1 is a
        property of the array; a part of the array never decides it.
    """
    place = ", ".join(f"{s.start}:{s.stop}" for s in where[1:])
    return as_probabilities(read_voxels(array, where, path), f"{path}: voxels [{place}]")


def _begins(at: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """Find where voxels, sorted by their index, begin a run of one kind."""
    follows = (np.diff(at) == 1) & (kind[1:] == kind[:-1])
    return np.flatnonzero(np.append(True, ~follows)[: len(at)])


#: for each axis the runs that lie side by side; see `RowRuns.contacts`
_RunContacts = list[tuple[np.ndarray, np.ndarray, np.ndarray]]


def _side_components(
    run: RowRuns, inside: np.ndarray, contacts: _RunContacts, shape: Index
) -> tuple[np.ndarray, np.ndarray]:
    """Label the components of some of the runs; also return the first voxel of each component.

    Runs that are not `inside` have the label 0.
    """
    number = np.cumsum(inside) - 1
    edges = []
    for one, other, _ in contacts:
        both = np.flatnonzero(inside[one] & inside[other])
        edges.append((number[one[both]], number[other[both]]))
    ends = [np.concatenate(end) for end in zip(*edges, strict=True)]
    which = np.flatnonzero(inside)
    labels = component_labels(len(which), *ends)
    result = np.zeros(len(inside), np.int64)
    result[which] = labels
    return result, run.first(shape)[which[first_of_each(labels)]]


def _local_states(
    label: dict[str, np.ndarray], run: RowRuns, values: np.ndarray, begin: Index, shape: Index
) -> tuple[LocalStates, np.ndarray]:
    """Number the pairs of pre and post labels that occur; also return the state of each run."""
    width = int(label["post"].max(initial=0)) + 1
    pair = label["pre"] * width + label["post"]
    pairs, at, state = np.unique(pair, return_index=True, return_inverse=True)
    stats = _statistics(run, values, begin).grouped(state, len(pairs))
    return LocalStates(pairs // width, pairs % width, run.first(shape)[at], stats), state


def _runs(run: RowRuns, state: np.ndarray, shape: Index) -> Runs:
    """Join the runs of one state that follow on each other in the C order of the block."""
    start, length = run.first(shape), run.length
    follows = (start[1:] == start[:-1] + length[:-1]) & (state[1:] == state[:-1])
    begins = np.flatnonzero(np.append(True, ~follows)[: len(start)])
    small = np.min_scalar_type(math.prod(shape))
    voxels = np.add.reduceat(length, begins) if len(begins) else length
    return Runs(start[begins].astype(small), voxels.astype(small), state[begins].astype(small))


def _local_contacts(
    run: RowRuns, state: np.ndarray, states: LocalStates, contacts: _RunContacts
) -> LocalContacts:
    """Find where voxels of two states lie side by side: one with a pre, one with a post label."""
    count = len(states.pre)
    pre, post = states.pre > 0, states.post > 0
    alone = np.arange(len(state))
    *across, along = contacts
    pairs, faces = [np.zeros(0, np.int64)], [np.zeros((0, 3), np.int64)]
    found = [*enumerate(across), (2, along), (2, (alone, alone, run.length - 1))]
    for axis, (first, second, number) in found if post.any() else ():
        one, other = state[first], state[second]
        mixed = (pre[one] & post[other]) | (post[one] & pre[other])
        mixed &= number > 0
        pairs.append(one[mixed] * count + other[mixed])
        faces.append(number[mixed, None] * np.eye(3, dtype=np.int64)[axis])
    unique, into = np.unique(np.concatenate(pairs), return_inverse=True)
    total = np.zeros((len(unique), 3), np.int64)
    np.add.at(total, into, np.concatenate(faces))
    ends = np.stack([unique // max(count, 1), unique % max(count, 1)], axis=1)
    return LocalContacts(ends, total)


def _statistics(run: RowRuns, values: np.ndarray, begin: Index) -> Stats:
    """Add up the voxels of each run; `values` are those of all their voxels."""
    if not len(run.x):
        return Stats.empty()
    if values.dtype.kind == "f":
        values = np.rint(values.astype(np.float64) * FLOAT_SCALE)
    channels = np.zeros((Channels.count, values.shape[1]), np.int64)
    channels[-len(values) :] = values
    length = run.length
    starts = np.cumsum(length) - length
    low = np.stack([run.z, run.y, run.x], axis=1) + np.array(begin)
    high = low.copy()
    high[:, 2] += length - 1
    index_sums = low * length[:, None]
    index_sums[:, 2] = (low[:, 2] + high[:, 2]) * length // 2
    return Stats(
        np.column_stack([length, index_sums, np.add.reduceat(channels, starts, axis=1).T]),
        low,
        high,
        np.maximum.reduceat(channels, starts, axis=1).T,
    )
