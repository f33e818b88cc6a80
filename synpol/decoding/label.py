"""Stage ``label``: the voxels of one block and which fragments of the sides they belong to.

This is the only stage that reads the polarity array, each of its chunks once. A block leaves a
record of its union voxels as runs along x, each with its *state*: a number for every pair of local
pre and post fragment that occurs. With it go sums over the voxels of each state, and the *rim*:
union voxels that the dilation of a neighbouring block will look at (`synpol.decoding.dilate`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from synpol.blockwise.grid import BlockGrid
from synpol.blockwise.records import Index
from synpol.blockwise.stage import VoxelStage
from synpol.decoding.reference import Threshold, components, reach
from synpol.errors import InputError
from synpol.polarity import PLAIN, Channels
from synpol.synapses.statistics import Stats, stats_to_arrays

if TYPE_CHECKING:
    import zarr

VERSION = 3
#: fixed point of float probabilities in sums: exact, so that no order of summation matters
FLOAT_SCALE = 2**24


@dataclass(frozen=True)
class LabelStage(VoxelStage):
    """Find the fragments of the sides in every block.

    Attributes
    ----------
    prediction : str
        Path or URL of the polarity array.
    blocks : BlockGrid
    threshold : Threshold
    dilate_sz : int
    sides : bool
        False: components of the union take the place of the sides.
    """

    prediction: str
    blocks: BlockGrid
    threshold: Threshold
    dilate_sz: int
    sides: bool

    name = "label"

    def start(self) -> zarr.Array:
        import zarr

        return zarr.open_array(self.prediction, mode="r")

    def read(self, index: Index, loaded: zarr.Array) -> np.ndarray:
        every = self.sides or self.threshold.exclusive
        union = PLAIN.index("union")  # the last channel; without sides no other counts
        channels = slice(None) if every else slice(union, union + 1)
        return read_checked(loaded, (channels, *self.blocks.slices(index)), self.prediction)

    def compute(self, index: Index, loaded: Any, given: np.ndarray) -> dict[str, np.ndarray]:
        volume = given
        if len(volume) == Channels.count:
            pre, post, union = self.threshold.foreground(volume)
        else:
            union = volume[0] > self.threshold.level
        at = np.flatnonzero(union)
        masks = {"pre": pre, "post": post} if self.sides else {"pre": union}
        flat = {kind: components(mask)[0].ravel()[at] for kind, mask in masks.items()}
        flat.setdefault("post", np.zeros(len(at), np.uint8))
        record = {f"first.{kind}": at[first_of_each(flat[kind])] for kind in ("pre", "post")}
        record |= _states(volume, at, flat, self.blocks.bounds(index)[0])
        record["rim"] = self._rim(index, at)
        return record

    def _rim(self, index: Index, at: np.ndarray) -> np.ndarray:
        """Union voxels that the dilation of other blocks looks at."""
        below, above = reach(self.dilate_sz)
        _, height, width = self.blocks.shape_of(index)
        seen = np.zeros(len(at), dtype=bool)
        for axis, place, size in ((1, at // width % height, height), (2, at % width, width)):
            if index[axis] > 0:
                seen |= place < above
            if index[axis] + 1 < self.grid[axis]:
                seen |= place >= size - below
        return at[seen]


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


def first_of_each(labels: np.ndarray) -> np.ndarray:
    """Where each label is met first; labels count up by that."""
    seen = np.maximum.accumulate(labels.astype(np.int64)) if len(labels) else labels
    return np.flatnonzero(np.diff(seen, prepend=0))


def _states(
    volume: np.ndarray, at: np.ndarray, flat: dict[str, np.ndarray], begin: Index
) -> dict[str, np.ndarray]:
    """Number the pairs of pre and post labels that occur; their voxels and statistics."""
    width = int(flat["post"].max(initial=0)) + 1
    pair = flat["pre"].astype(np.int64) * width + flat["post"].astype(np.int64)
    pairs, state = np.unique(pair, return_inverse=True)
    record = {"state.pre": pairs // width, "state.post": pairs % width}
    order = np.argsort(state, kind="stable")
    starts = np.searchsorted(state[order], np.arange(len(pairs)))
    record["state.first"] = at[order[starts]]
    record |= stats_to_arrays(_statistics(volume, at[order], starts, begin), "state")
    is_start = np.append(True, (np.diff(at) != 1) | (np.diff(state) != 0))[: len(at)]
    run = np.flatnonzero(is_start)
    small = np.min_scalar_type(volume[0].size)
    record["run.start"] = at[run].astype(small)
    record["run.length"] = np.diff(np.append(run, len(at))).astype(small)
    record["run.state"] = state[run].astype(small)
    return record | _contacts(at, state, record, volume.shape[1:])


def _contacts(
    at: np.ndarray, state: np.ndarray, record: dict[str, np.ndarray], shape: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """Pairs of states whose voxels lie side by side, one with a pre and one with a post label."""
    count = len(record["state.pre"])
    pre, post = record["state.pre"] > 0, record["state.post"] > 0
    _, height, width = shape
    pairs, faces = [np.zeros(0, np.int64)], [np.zeros((0, 3), np.int64)]
    steps = ((height * width, None), (width, at // width % height), (1, at % width))
    for axis, (step, place) in enumerate(steps) if post.any() else ():
        next_to = np.searchsorted(at, at + step)
        there = np.append(at, -1)[next_to] == at + step
        if place is not None:
            there &= place < shape[axis] - 1
        one, other = state[there], state[next_to[there]]
        mixed = (pre[one] & post[other]) | (post[one] & pre[other])
        pair, number = np.unique(one[mixed] * count + other[mixed], return_counts=True)
        pairs.append(pair)
        faces.append(number[:, None] * np.eye(3, dtype=np.int64)[axis])
    unique, into = np.unique(np.concatenate(pairs), return_inverse=True)
    total = np.zeros((len(unique), 3), np.int64)
    np.add.at(total, into, np.concatenate(faces))
    ends = np.stack([unique // max(count, 1), unique % max(count, 1)], axis=1)
    return {"contact.states": ends, "contact.faces": total}


def _statistics(volume: np.ndarray, at: np.ndarray, starts: np.ndarray, begin: Index) -> Stats:
    """Sums and bounds of voxels that are sorted by their set; `starts` says where each begins."""
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


def states_of(record: dict[str, np.ndarray], shape: Index) -> np.ndarray:
    """The states of a block as an array: 0 outside the union, else 1 + row of the state."""
    dtype = np.uint16 if len(record["state.pre"]) < 2**16 - 1 else np.uint32
    states = np.zeros(shape, dtype)
    states.ravel()[voxels_of(record)] = np.repeat(record["run.state"] + 1, record["run.length"])
    return states


def voxels_of(record: dict[str, np.ndarray]) -> np.ndarray:
    """Indices of a block's union voxels in its C order."""
    length = record["run.length"].astype(np.int64)
    before = np.cumsum(length) - length
    return np.repeat(record["run.start"] - before, length) + np.arange(int(length.sum()))
