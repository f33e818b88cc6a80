"""Stage ``verify``: read every chunk of an array, and count the voxels of its labels.

Chunks carry a checksum, so reading one tells whether it is what was written. A coarser level is
also compared with what the finer one gives.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from synpol.blockwise.records import Index
from synpol.blockwise.stage import VoxelStage
from synpol.images.downsampling import label_of_cells, mean_of_cells
from synpol.images.image import open_image
from synpol.images.reading import damaged_chunks, is_fault

if TYPE_CHECKING:
    from synpol.config import ImageSource


@dataclass
class Checked:
    """Record of a block.

    Attributes
    ----------
    damaged : (n,) uint8
        Names of the chunk files that cannot be read, as JSON.
    label : (n,) uint64
        Labels in the block; empty where they are not counted.
    voxels : (n,) int64
        Number of voxels of each.
    differs : () bool
        Whether a coarser level is not what the finer one gives.
    """

    damaged: np.ndarray
    label: np.ndarray
    voxels: np.ndarray
    differs: np.ndarray

    @property
    def names(self) -> list[str]:
        """Names of the chunk files that cannot be read."""
        return [str(name) for name in json.loads(self.damaged.tobytes())]


@dataclass(frozen=True)
class Opened:
    """Arrays that a process reads.

    Attributes
    ----------
    array : zarr.Array or View
        Array to check.
    finer : zarr.Array or None
        Finer level of which it is made.
    """

    array: Any
    finer: Any


@dataclass(frozen=True, kw_only=True)
class ReadStage(VoxelStage[Opened, None, Checked]):
    """Read every chunk of an array.

    Attributes
    ----------
    source : str or ImageSource
        Array to check.
    count_labels : bool
        Whether the voxels are labels to be counted.
    finer : str
        Finer level of which the array is made; "" for a full resolution.
    factors : (int, int, int)
        Number of voxels of the finer level, along z, y, x, that make one voxel.
    labels : bool
        Whether a coarser level is of labels instead of grey values.
    """

    source: str | ImageSource
    count_labels: bool = False
    finer: str = ""
    factors: Index = (1, 1, 1)
    labels: bool = False

    name = "verify"
    voxel_cost = 1

    def open(self) -> Opened:
        finer = open_image(self.finer, inside=False).array if self.finer else None
        return Opened(open_image(self.source, inside=isinstance(self.source, str)).array, finer)

    def compute(self, index: Index, opened: Opened, given: None) -> Checked:
        where = (..., *self.blocks.slices(index))
        voxels = _read(opened.array, where)
        names = [] if voxels is not None else list(damaged_chunks(opened.array, where))
        label, counts = np.zeros(0, np.uint64), np.zeros(0, np.int64)
        if self.count_labels and voxels is not None:
            label, counts = np.unique(voxels[voxels > 0], return_counts=True)
        return Checked(
            np.frombuffer(json.dumps(names).encode(), np.uint8),
            label.astype(np.uint64),
            counts.astype(np.int64),
            np.array(voxels is not None and self._differs(index, opened, voxels)),
        )

    def _differs(self, index: Index, opened: Opened, voxels: np.ndarray) -> bool:
        """Tell whether voxels of a coarser level are not what the finer one gives."""
        if opened.finer is None:
            return False
        sides = zip(self.blocks.slices(index), self.factors, strict=True)
        finer = _read(opened.finer, (..., *(slice(s.start * f, s.stop * f) for s, f in sides)))
        if finer is None:  # the finer level is named itself
            return False
        expected = (label_of_cells if self.labels else mean_of_cells)(finer, self.factors)
        return not np.array_equal(voxels, expected)


def blocks_to_read(shape: Sequence[int], cell: Sequence[int]) -> list[int]:
    """Return a block of whole chunk files with sides of about 128 voxels.

    Parameters
    ----------
    shape, cell : 3 ints
        Voxels of the array, and of one chunk file.
    """
    return [min(n, c * max(1, 128 // c)) for n, c in zip(shape, cell, strict=True)]


def _read(array: Any, where: tuple[Any, ...]) -> np.ndarray | None:
    """Read a region; None where a chunk of it is damaged."""
    try:
        return np.asarray(array[where])
    except Exception as error:
        if is_fault(error):  # the block is tried again
            raise
        return None
