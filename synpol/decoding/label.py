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
from synpol.decoding.reference import Threshold, components
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

    def voxels(self) -> np.ndarray:
        """Return the indices of the union voxels in the C order of the block."""
        length = self.length.astype(np.int64)
        before = np.cumsum(length) - length
        return np.repeat(self.start - before, length) + np.arange(int(length.sum()))


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

    def states(self, shape: Index) -> np.ndarray:
        """Return the block as an array: 0 outside the union, else 1 + number of the state."""
        dtype = np.uint16 if len(self.state.pre) < 2**16 - 1 else np.uint32
        states = np.zeros(shape, dtype)
        states.ravel()[self.run.voxels()] = np.repeat(self.run.state + 1, self.run.length)
        return states


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
    seconds_per_voxel = 6e-9

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
        volume = given
        if len(volume) == Channels.count:
            pre, post, union = self.threshold.foreground(volume)
        else:
            union = volume[0] > self.threshold.level
        at = np.flatnonzero(union)
        masks = {"pre": pre, "post": post} if self.sides else {"pre": union}
        flat = {kind: components(mask)[0].ravel()[at] for kind, mask in masks.items()}
        flat.setdefault("post", np.zeros(len(at), np.uint8))
        first = {kind: at[first_of_each(flat[kind])] for kind in ("pre", "post")}
        states, state = _local_states(volume, at, flat, self.blocks.bounds(index)[0])
        return LabelRecord(
            first=first,
            state=states,
            run=_runs(at, state, volume[0].size),
            contact=_local_contacts(at, state, states, volume.shape[1:]),
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


def first_of_each(labels: np.ndarray) -> np.ndarray:
    """Find where each label occurs first; labels are numbered in that order."""
    seen = np.maximum.accumulate(labels.astype(np.int64)) if len(labels) else labels
    return np.flatnonzero(np.diff(seen, prepend=0))


def _local_states(
    volume: np.ndarray, at: np.ndarray, flat: dict[str, np.ndarray], begin: Index
) -> tuple[LocalStates, np.ndarray]:
    """Number the pairs of pre and post labels that occur; also return the state of each voxel."""
    width = int(flat["post"].max(initial=0)) + 1
    pair = flat["pre"].astype(np.int64) * width + flat["post"].astype(np.int64)
    pairs, state = np.unique(pair, return_inverse=True)
    order = np.argsort(state, kind="stable")
    starts = np.searchsorted(state[order], np.arange(len(pairs)))
    stats = _statistics(volume, at[order], starts, begin)
    return LocalStates(pairs // width, pairs % width, at[order[starts]], stats), state


def _runs(at: np.ndarray, state: np.ndarray, voxels: int) -> Runs:
    """Divide the union voxels of a block into runs of one state."""
    is_start = np.append(True, (np.diff(at) != 1) | (np.diff(state) != 0))[: len(at)]
    run = np.flatnonzero(is_start)
    small = np.min_scalar_type(voxels)
    length = np.diff(np.append(run, len(at)))
    return Runs(at[run].astype(small), length.astype(small), state[run].astype(small))


def _local_contacts(
    at: np.ndarray, state: np.ndarray, states: LocalStates, shape: tuple[int, ...]
) -> LocalContacts:
    """Find where voxels of two states lie side by side: one with a pre, one with a post label."""
    count = len(states.pre)
    pre, post = states.pre > 0, states.post > 0
    _, height, width = shape
    pairs, faces = [np.zeros(0, np.int64)], [np.zeros((0, 3), np.int64)]
    steps = ((height * width, None), (width, at // width % height), (1, at % width))
    for axis, (step, place) in enumerate(steps) if post.any() else ():
        next_to = np.searchsorted(at, at + step)
        both = np.append(at, -1)[next_to] == at + step
        if place is not None:
            both &= place < shape[axis] - 1
        one, other = state[both], state[next_to[both]]
        mixed = (pre[one] & post[other]) | (post[one] & pre[other])
        pair, number = np.unique(one[mixed] * count + other[mixed], return_counts=True)
        pairs.append(pair)
        faces.append(number[:, None] * np.eye(3, dtype=np.int64)[axis])
    unique, into = np.unique(np.concatenate(pairs), return_inverse=True)
    total = np.zeros((len(unique), 3), np.int64)
    np.add.at(total, into, np.concatenate(faces))
    ends = np.stack([unique // max(count, 1), unique % max(count, 1)], axis=1)
    return LocalContacts(ends, total)


def _statistics(volume: np.ndarray, at: np.ndarray, starts: np.ndarray, begin: Index) -> Stats:
    """Add up voxels that are sorted by their set; `starts` says where each set begins."""
    if not len(at):
        return Stats.empty()
    voxel = np.stack(np.unravel_index(at, volume.shape[1:]), axis=1) + np.array(begin)
    values = np.zeros((len(at), Channels.count), volume.dtype)
    values[:, -len(volume) :] = volume.reshape(len(volume), -1)[:, at].T
    if values.dtype.kind == "f":
        values = np.rint(values.astype(np.float64) * FLOAT_SCALE)
    ones = np.ones((len(at), 1), np.int64)
    columns = np.concatenate([ones, voxel, values.astype(np.int64)], axis=1)
    return Stats(
        np.add.reduceat(columns, starts),
        np.minimum.reduceat(voxel, starts),
        np.maximum.reduceat(voxel, starts),
        np.maximum.reduceat(columns[:, 4:], starts),
    )
