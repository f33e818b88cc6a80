"""Add up voxels of synapses: everything that a row of the synapse table is made from.

Everything is a whole number, so the order in which voxels or blocks are added never matters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from synpol.polarity import Channels

#: columns of `Stats.sums`: number of voxels, sums of their z, y, x indices, sums of the channels
SUMS = ("voxels", "z", "y", "x", *(f"channel_{n}" for n in range(Channels.count)))


class Columns:
    """Select and join the rows of a dataclass whose fields are arrays (or such dataclasses)."""

    def __getitem__(self, rows: np.ndarray) -> Self:
        return type(self)(*(getattr(self, f.name)[rows] for f in fields(self)))  # type: ignore[arg-type]

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Put the rows of all parts one after the other."""
        columns = []
        for f in fields(cls):  # type: ignore[arg-type]
            values = [getattr(part, f.name) for part in parts]
            nested = isinstance(values[0], Columns)
            columns.append(type(values[0]).joined(values) if nested else np.concatenate(values))
        return cls(*columns)


@dataclass
class Stats(Columns):
    """Sums and bounds over sets of voxels, one row for each set.

    Attributes
    ----------
    sums : (n, 7) int64
        Sums over the voxels; the columns are `SUMS`.
    low, high : (n, 3) int64
        Smallest and largest voxel index along z, y, x. A set without voxels has the largest
        possible number and -1.
    peak : (n, 3) int64
        Largest value of each channel; -1 for a set without voxels.
    """

    sums: np.ndarray
    low: np.ndarray
    high: np.ndarray
    peak: np.ndarray

    @classmethod
    def empty(cls, count: int = 0) -> Stats:
        """Return the statistics of sets without voxels."""
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

    def grouped(self, into: np.ndarray, count: int) -> Stats:
        """Add up rows: row i goes into row ``into[i]`` of the `count` rows of the result.

        Rows with -1 there are left out.
        """
        result = Stats.empty(count)
        rows = np.flatnonzero(into >= 0)
        into = into[rows]
        np.add.at(result.sums, into, self.sums[rows])
        np.minimum.at(result.low, into, self.low[rows])
        np.maximum.at(result.high, into, self.high[rows])
        np.maximum.at(result.peak, into, self.peak[rows])
        return result


@dataclass
class Rows(Columns):
    """Finished synapses, sorted by name: what the numbering and the table need.

    Attributes
    ----------
    synapse : (n,) uint64
        Name of each synapse.
    contact : (n, 3) int64
        Number of voxel faces between the pre and the post side, across z, y and x.
    pre, post : Stats
        Statistics of the voxels that carry the label of the side.
    """

    synapse: np.ndarray
    contact: np.ndarray
    pre: Stats
    post: Stats

    @classmethod
    def merged(cls, parts: Sequence[Rows]) -> Rows:
        """Put the rows of all parts together, sorted by name."""
        rows = cls.joined(parts)
        return rows[np.argsort(rows.synapse)]
