"""Take a synapse apart that reviewers call several, where its union is weakest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt

from synpol.config import Config
from synpol.decoding.reference import components, threshold_of
from synpol.polarity import Channels, side_labels, split_labels
from synpol.review.volumes import FULL, Box, Volumes


@dataclass(frozen=True)
class Apart:
    """A synapse that is taken apart.

    Attributes
    ----------
    number : int
        Its number, which the largest piece keeps.
    first, more : int
        Number of the next piece, and how many more pieces there are.
    box : 6 ints
        First voxels and ends, z, y, x.
    """

    number: int
    first: int
    more: int
    box: Box


@dataclass(frozen=True)
class Separation:
    """How synapses are taken apart; see `separate`.

    Attributes
    ----------
    level : int
        Value of the union, 0 to 255, from which on it is raised.
    least : int
        Voxels that each side of a piece has at least.
    sides, exclusive : bool
        As in `synpol.decode_blockwise`.
    size : 3 floats
        Voxel size, nm.
    """

    level: int
    least: int
    sides: bool
    exclusive: bool
    size: tuple[float, ...]

    @classmethod
    def of(cls, config: Config, size: Sequence[float]) -> Separation:
        """Take the threshold and the least size that the result was decoded with."""
        options = config.decode
        chosen = threshold_of(np.dtype(np.uint8), options.thres, config.exclusive, True)
        level = FULL // 2 if config.exclusive else int(chosen.level)
        least = max(1, options.thres_small)
        return cls(level, least, options.sides, config.exclusive, tuple(size))

    def separate(self, labels: np.ndarray, polarity: np.ndarray, number: int) -> np.ndarray | None:
        """Take a synapse apart where its union is weakest.

        The threshold of the union rises until at least two components hold enough voxels of each
        side of the synapse. All its other voxels belong to the nearest of these.

        Parameters
        ----------
        labels : (z, y, x) array
            Instances in the box of the synapse.
        polarity : (3, z, y, x) uint8 array
            Channels in this box.
        number : int
            The synapse.

        Returns
        -------
        (z, y, x) array of int, or None
            1, 2, ... on the voxels of its pieces, the largest piece first; None where it has none.
        """
        synapse, pre = split_labels(labels) if self.sides else (labels, np.zeros(0, bool))
        own = synapse == number
        parts = [own & pre, own & ~pre] if self.sides else [own]
        union = Channels.of(self.exclusive).union(polarity.astype(np.int16))
        free = own | (labels == 0)
        values = np.unique(union[own])
        for value in [self.level, *values[values > self.level].tolist()]:
            found, count = components((union > value) & free)
            large = np.ones(count + 1, bool)
            large[0] = False
            for part in parts:
                large &= np.bincount(found[part], minlength=count + 1) >= self.least
            if large.sum() > 1:
                break
        else:
            return None
        at = distance_transform_edt(
            ~large[found], sampling=self.size, return_distances=False, return_indices=True
        )
        pieces = (np.cumsum(large) * large)[found[tuple(at)]] * own
        order = np.argsort(-np.bincount(pieces[own])[1:], kind="stable")
        rank = np.zeros(len(order) + 1, np.int64)
        rank[order + 1] = 1 + np.arange(len(order))
        return np.asarray(rank[pieces])

    def relabel(self, labels: np.ndarray, pieces: np.ndarray, one: Apart) -> np.ndarray:
        """Give the pieces of a synapse numbers of their own."""
        new = np.where(pieces > 1, one.first + pieces - 2, one.number).astype(np.uint64)
        if self.sides:
            pre = split_labels(labels)[1]
            new = side_labels(new, pre, ~pre)
        return np.where(pieces > 0, new.astype(labels.dtype), labels)


def taken_apart(volumes: Volumes, one: Apart, how: Separation) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels in the box of a synapse, as they are and taken apart."""
    labels = volumes.labels(one.box)
    pieces = how.separate(labels, volumes.channels(one.box), one.number)
    assert pieces is not None  # it was taken apart when it was planned
    return labels, how.relabel(labels, pieces, one)
