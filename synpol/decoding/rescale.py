"""Stage ``rescale``: instances at another resolution, by nearest neighbour.

Which voxel a voxel of the result is taken from depends on the shapes of both volumes alone, axis by
axis, so blocks of the result are exact. They are laid out on the result, and small enough to look
at no more than about one block of the full resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from synpol.blockwise.grid import BlockGrid, index_of
from synpol.blockwise.records import Index
from synpol.blockwise.stage import ArrayStage
from synpol.decoding.reference import nearest_voxels

VERSION = 1


@dataclass(frozen=True)
class RescaleStage(ArrayStage):
    """Write every block of the rescaled instances.

    Attributes
    ----------
    instances, full : str
        Paths of the array to write, and of the instances at full resolution.
    blocks : BlockGrid
        Of the array to write.
    shape : (int, int, int)
        Of the full resolution, voxels.
    """

    instances: str
    full: str
    blocks: BlockGrid
    shape: Index

    name = "rescale"

    def start(self) -> Any:
        from synpol.images.image import open_image

        return (
            open_image(self.instances, channels=0, mode="r+").array,
            open_image(self.full, channels=0).array,
            [nearest_voxels(*sizes) for sizes in zip(self.shape, self.blocks.shape, strict=True)],
        )

    def _taken(self, index: Index, voxels: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Voxels of the full resolution that a block is made of, axis by axis."""
        return [v[s] for v, s in zip(voxels, self.blocks.slices(index), strict=True)]

    def read(self, index: Index, loaded: Any) -> np.ndarray:
        _, full, voxels = loaded
        taken = self._taken(index, voxels)
        return np.asarray(full[tuple(slice(int(t[0]), int(t[-1]) + 1) for t in taken)])

    def compute(self, index: Index, loaded: Any, given: np.ndarray) -> np.ndarray | None:
        if not given.any():
            return None
        return given[np.ix_(*(t - t[0] for t in self._taken(index, loaded[2])))]


def rescaled_blocks(blocks: BlockGrid, shape: Sequence[int]) -> BlockGrid:
    """Blocks of a rescaled volume that look at no more than a block of the full resolution."""
    sizes = zip(blocks.block, blocks.shape, shape, strict=True)
    return BlockGrid.of(shape, index_of(max(1, min(b, b * t // s)) for b, s, t in sizes))
