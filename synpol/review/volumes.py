"""Read instances and polarity around single synapses, and add up their voxels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from synpol.config import ImageSource
from synpol.images.image import Image, open_image
from synpol.images.reading import read_voxels
from synpol.polarity import Channels, split_labels
from synpol.synapses.reading import parts_of
from synpol.synapses.statistics import Rows, Stats

#: value of a channel for the probability 1
FULL = 255

Box = tuple[int, int, int, int, int, int]


@dataclass(frozen=True)
class Volumes:
    """Instances and polarity of a result, voxel for voxel.

    Attributes
    ----------
    instances, polarity : Image
    """

    instances: Image
    polarity: Image

    def labels(self, box: Box) -> np.ndarray:
        """Read the instances in a box."""
        return read_voxels(self.instances.array, _slices(box), self.instances.source)

    def channels(self, box: Box) -> np.ndarray:
        """Read the polarity in a box, (3, z, y, x)."""
        return read_voxels(self.polarity.array, (slice(None), *_slices(box)), self.polarity.source)

    def around(self, box: Box, reach: float) -> Box:
        """Return a box with a margin (nm), which ends where the instances end."""
        margin = [int(reach // size) for size in self.instances.voxel_size_nm]
        low = [max(0, b - m) for b, m in zip(box[:3], margin, strict=True)]
        shape = self.instances.shape_vx
        high = [min(n, e + m) for e, m, n in zip(box[3:], margin, shape, strict=True)]
        return (*low, *high)

    def boxes(self, table: Path, numbers: Sequence[int]) -> dict[int, Box]:
        """Read the boxes of synapses from their table."""
        names = [f"bbox_{axis}_{end}" for end in ("min", "max") for axis in "zyx"]
        wanted = pa.array(sorted(numbers), pa.uint64())
        found: dict[int, Box] = {}
        offset, size = (
            np.tile(v, 2) for v in (self.instances.offset_nm, self.instances.voxel_size_nm)
        )
        for rows in parts_of(table, ["synapse_id", *names]) if len(wanted) else ():
            some = rows.filter(pc.is_in(rows["synapse_id"], value_set=wanted))
            edges = np.stack([some[name].to_numpy() for name in names], axis=1)
            voxels = np.rint((edges - offset) / size).astype(np.int64)
            found |= zip(some["synapse_id"].to_pylist(), map(tuple, voxels.tolist()), strict=True)
        return found


def volumes_of(instances: str | ImageSource, polarity: str) -> Volumes:
    """Open instances and polarity of a result."""
    return Volumes(open_image(instances, channels=0), open_image(polarity, channels=Channels.count))


def polarity_beside(instances: Image, polarity: str) -> Volumes | None:
    """Put the instances of a result and its polarity together; None where these do not fit."""
    if not Path(polarity).exists():
        return None
    found = open_image(polarity, channels=Channels.count)
    fits = found.array.dtype == np.uint8 and found.shape_vx == instances.shape_vx
    return Volumes(instances, found) if fits else None


def _slices(box: Box) -> tuple[slice, slice, slice]:
    z, y, x = map(slice, box[:3], box[3:])
    return z, y, x


def box_around(boxes: Iterable[Box]) -> Box:
    """Return the box around boxes."""
    edges = np.array(list(boxes))
    return (*edges[:, :3].min(axis=0).tolist(), *edges[:, 3:].max(axis=0).tolist())


def voxels_of(box: Box) -> int:
    """Return the number of voxels in a box."""
    return int(np.prod(np.subtract(box[3:], box[:3])))


def sums_of(labels: np.ndarray, polarity: np.ndarray, box: Box, number: int, sides: bool) -> Rows:
    """Add up the voxels of one synapse, as decoding does."""
    synapse, is_pre = split_labels(labels) if sides else (labels, np.ones(labels.shape, bool))
    own = synapse == number
    pre, post = own & is_pre, own & ~is_pre
    faces = []
    for axis in range(3):
        a, b = (np.moveaxis(side, axis, 0) for side in (pre, post))
        faces.append(int((a[1:] & b[:-1]).sum() + (b[1:] & a[:-1]).sum()))
    stats = [_stats(side, polarity, box) for side in (pre, post)]
    return Rows(np.array([number], np.uint64), np.array([faces]), *stats)


def _stats(mask: np.ndarray, polarity: np.ndarray, box: Box) -> Stats:
    at = np.argwhere(mask) + np.array(box[:3])
    if not len(at):
        return Stats.empty(1)
    values = polarity[:, mask].astype(np.int64)
    sums = np.array([[len(at), *at.sum(axis=0), *values.sum(axis=1)]])
    low, high, peak = at.min(axis=0), at.max(axis=0), values.max(axis=1)
    return Stats(sums, low[None], high[None], peak[None])
