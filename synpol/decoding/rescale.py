"""Stage ``rescale``: resize instances to another resolution, by nearest neighbour.

Which voxel a voxel of the result is taken from depends on the shapes of both volumes alone, axis by
axis, so blocks of the result are exact. The blocks lie on the result, and are small enough to look
at no more than about one block of the full resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from synpol.blockwise.grid import BlockGrid, index_of
from synpol.blockwise.records import Index
from synpol.blockwise.stage import ArrayStage
from synpol.decoding.reference import nearest_voxels

if TYPE_CHECKING:
    import zarr


@dataclass(frozen=True)
class Opened:
    """What a process opens to resize blocks.

    Attributes
    ----------
    instances, full : zarr.Array
        The array to write, and the instances at full resolution.
    voxels : list of (n,) int64
        For z, y, x: the voxel of the full resolution from which each voxel is taken.
    """

    instances: zarr.Array
    full: zarr.Array
    voxels: list[np.ndarray]


@dataclass(frozen=True)
class RescaleStage(ArrayStage[Opened, np.ndarray]):
    """Write every block of the resized instances.

    Attributes
    ----------
    instances, full : str
        Paths of the array to write, and of the instances at full resolution.
    voxel_bytes : int
        Number of bytes of a voxel of both arrays.
    blocks : BlockGrid
        Blocks of the array to write.
    shape : (int, int, int)
        Shape of the full resolution, voxels.
    """

    instances: str
    full: str
    voxel_bytes: int
    shape: Index

    name = "rescale"
    job = "a block of the resized volume"
    reads = "instances at full resolution"
    leaves = "resized instances"
    seconds_per_voxel = 3e-9

    @property
    def bytes_read(self) -> int:
        return int(np.prod(self.shape)) * self.voxel_bytes

    @property
    def bytes_written(self) -> int:
        return int(np.prod(self.blocks.shape)) * self.voxel_bytes

    def open(self) -> Opened:
        from synpol.images.image import open_image

        axes = zip(self.shape, self.blocks.shape, strict=True)
        return Opened(
            open_image(self.instances, channels=0, mode="r+").array,
            open_image(self.full, channels=0).array,
            [nearest_voxels(*sizes) for sizes in axes],
        )

    @property
    def filled(self) -> str:
        return self.instances

    def target(self, opened: Opened) -> zarr.Array:
        return opened.instances

    def _taken(self, index: Index, voxels: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Find the voxels of the full resolution that make a block, axis by axis."""
        return [v[s] for v, s in zip(voxels, self.blocks.slices(index), strict=True)]

    def read(self, index: Index, opened: Opened) -> np.ndarray:
        taken = self._taken(index, opened.voxels)
        return np.asarray(opened.full[tuple(slice(int(t[0]), int(t[-1]) + 1) for t in taken)])

    def compute(self, index: Index, opened: Opened, given: np.ndarray) -> np.ndarray | None:
        if not given.any():
            return None
        return given[np.ix_(*(t - t[0] for t in self._taken(index, opened.voxels)))]


def rescaled_blocks(blocks: BlockGrid, shape: Sequence[int]) -> BlockGrid:
    """Cut a resized volume into blocks that look at no more than a block of full resolution."""
    sizes = zip(blocks.block, blocks.shape, shape, strict=True)
    return BlockGrid.of(shape, index_of(max(1, min(b, b * t // s)) for b, s, t in sizes))
