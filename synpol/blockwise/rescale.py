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

from synpol.blockwise.geometry import BlockGrid, index_of
from synpol.blockwise.records import Index, write_record
from synpol.blockwise.stage import Stage
from synpol.decoding import nearest_voxels

VERSION = 1


@dataclass(frozen=True)
class RescaleStage(Stage):
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

    @property
    def block_voxels(self) -> int:
        return int(np.prod(self.blocks.block))

    @property
    def cost(self) -> int:  # type: ignore[override]
        return self.block_voxels

    def start(self) -> Any:
        from synpol.arrays import open_image

        return (
            open_image(self.instances, channels=0, mode="r+").array,
            open_image(self.full, channels=0).array,
            [nearest_voxels(*sizes) for sizes in zip(self.shape, self.blocks.shape, strict=True)],
        )

    def process(self, index: Index, loaded: Any) -> None:
        instances, full, voxels = loaded
        slices = self.blocks.slices(index)
        taken = [v[s] for v, s in zip(voxels, slices, strict=True)]
        region = np.asarray(full[tuple(slice(int(t[0]), int(t[-1]) + 1) for t in taken)])
        if region.any():
            instances[slices] = region[np.ix_(*(t - t[0] for t in taken))]
        write_record(self.folder, index, {})


def rescaled_blocks(blocks: BlockGrid, shape: Sequence[int]) -> BlockGrid:
    """Blocks of a rescaled volume that look at no more than a block of the full resolution."""
    sizes = zip(blocks.block, blocks.shape, shape, strict=True)
    return BlockGrid.of(shape, index_of(max(1, min(b, b * t // s)) for b, s, t in sizes))
