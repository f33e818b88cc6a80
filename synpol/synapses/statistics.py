"""Sums over the voxels of a synapse, from which its row of the table is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from synpol.polarity import Channels

#: columns of `Stats.sums`: number of voxels, sums of their z, y, x indices, sums of the channels
SUMS = ("voxels", "z", "y", "x", *(f"channel_{n}" for n in range(Channels.count)))


@dataclass
class Stats:
    """Sums and bounds over sets of voxels, one row a set; whole numbers, so order never matters.

    Attributes
    ----------
    sums : (n, 7) int64
        See `SUMS`.
    low, high : (n, 3) int64
        Smallest and largest voxel index, z, y, x. Rows without voxels hold the largest and -1.
    peak : (n, 3) int64
        Largest value of the three channels; -1 without voxels.
    """

    sums: np.ndarray
    low: np.ndarray
    high: np.ndarray
    peak: np.ndarray

    @classmethod
    def empty(cls, count: int = 0) -> Stats:
        return cls(
            np.zeros((count, len(SUMS)), np.int64),
            np.full((count, 3), np.iinfo(np.int64).max),
            np.full((count, 3), -1, np.int64),
            np.full((count, Channels.count), -1, np.int64),
        )

    @property
    def voxels(self) -> np.ndarray:
        """Number of voxels of each set, (n,) int64."""
        return self.sums[:, 0]

    @property
    def index_sums(self) -> np.ndarray:
        """Sums of the voxels' indices along z, y, x, (n, 3) int64."""
        return self.sums[:, 1:4]

    @property
    def channel_sums(self) -> np.ndarray:
        """Sums of the voxels' values in each channel, (n, 3) int64."""
        return self.sums[:, 4:]

    def __getitem__(self, rows: np.ndarray) -> Stats:
        return Stats(*(getattr(self, f.name)[rows] for f in fields(self)))

    def grouped(self, into: np.ndarray, count: int) -> Stats:
        """Add up rows; row i goes into row ``into[i]`` of `count`."""
        result = Stats.empty(count)
        np.add.at(result.sums, into, self.sums)
        np.minimum.at(result.low, into, self.low)
        np.maximum.at(result.high, into, self.high)
        np.maximum.at(result.peak, into, self.peak)
        return result

    @classmethod
    def joined(cls, parts: Sequence[Stats]) -> Stats:
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))


@dataclass
class Rows:
    """Finished synapses, sorted by name: what the numbering and the table need.

    Attributes
    ----------
    synapse : (n,) uint64
    pre, post : Stats
        Of the voxels that carry the label.
    contact : (n, 3) int64
        Faces between pre and post voxels, across z, y and x.
    """

    synapse: np.ndarray
    pre: Stats
    post: Stats
    contact: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> Rows:
        return Rows(self.synapse[rows], self.pre[rows], self.post[rows], self.contact[rows])

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """All rows of several, sorted by name."""
        names = np.concatenate([p.synapse for p in parts])
        order = np.argsort(names)
        pre, post = (Stats.joined([getattr(p, side) for p in parts]) for side in ("pre", "post"))
        return cls(names, pre, post, np.concatenate([p.contact for p in parts]))[order]


def stats_to_arrays(stats: Stats, name: str) -> dict[str, np.ndarray]:
    """Statistics as named arrays, for a record."""
    return {f"{name}.{k}": v for k, v in vars(stats).items()}


def stats_from_arrays(arrays: Mapping[str, np.ndarray], name: str) -> Stats:
    """The inverse of `stats_to_arrays`."""
    return Stats(*(arrays[f"{name}.{f.name}"] for f in fields(Stats)))


def rows_to_arrays(rows: Rows) -> dict[str, np.ndarray]:
    """The inverse of `rows_from_arrays`."""
    arrays = {"rows.synapse": rows.synapse, "rows.contact": rows.contact}
    for side, stats in (("pre", rows.pre), ("post", rows.post)):
        arrays |= stats_to_arrays(stats, f"rows.{side}")
    return arrays


def rows_from_arrays(arrays: Mapping[str, np.ndarray]) -> Rows:
    """The finished synapses of a record."""
    pre, post = (stats_from_arrays(arrays, f"rows.{side}") for side in ("pre", "post"))
    return Rows(arrays["rows.synapse"], pre, post, arrays["rows.contact"])
