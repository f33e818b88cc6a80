"""Stage ``mask``: write a mask of synapses as a polarity array, and decode it into instances.

A mask marks synapses but does not separate them. The instances of a mask are the components of its
dilation. The decoder finds just these components in a union channel, so the stage writes the mask
as the union channel of a polarity array.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import zarr

from synpol.blockwise.driver import Driver
from synpol.blockwise.grid import BlockGrid
from synpol.blockwise.records import Done, Index, write_record
from synpol.blockwise.stage import VoxelStage, blocks_of
from synpol.decoding.job import decode_blockwise
from synpol.files import join
from synpol.images.claim import begun, claim_image
from synpol.images.identity import hash_of, identity_of
from synpol.images.image import Image, open_image
from synpol.images.writing import complete, create_image
from synpol.polarity import PLAIN, Channels

if TYPE_CHECKING:
    from synpol.config import Workers


@dataclass(frozen=True)
class MaskArrays:
    """Open arrays of the mask and of the polarity array to write.

    Attributes
    ----------
    mask : zarr.Array
        Mask, (z, y, x).
    polarity : zarr.Array
        Array to write, (3, z, y, x).
    """

    mask: zarr.Array
    polarity: zarr.Array


@dataclass(frozen=True)
class MaskStage(VoxelStage[MaskArrays, np.ndarray, np.ndarray]):
    """Write the union channel of every block.

    Attributes
    ----------
    polarity, mask : str
        Paths or URLs of the polarity array to write and of the mask.
    blocks : BlockGrid
        Blocks of the mask.
    """

    polarity: str
    mask: str
    blocks: BlockGrid

    name = "mask"
    version = 1

    def open(self) -> MaskArrays:
        return MaskArrays(
            mask=open_image(self.mask, channels=0).array,
            polarity=open_image(self.polarity, mode="r+").array,
        )

    def read(self, index: Index, opened: MaskArrays) -> np.ndarray:
        return np.asarray(opened.mask[self.blocks.slices(index)])

    def compute(self, index: Index, opened: MaskArrays, given: np.ndarray) -> np.ndarray:
        return given != 0

    def write(self, index: Index, opened: MaskArrays, result: np.ndarray) -> None:
        if result.any():
            union = (PLAIN.index("union"), *self.blocks.slices(index))
            opened.polarity[union] = np.uint8(255) * result
        write_record(self.folder, index, Done())


def instances_of_mask(
    mask: Image,
    dilate_sz: int,
    work: Path,
    *,
    block_shape: Sequence[int],
    num_workers: int = 1,
    workers: Workers | None = None,
) -> Image:
    """Find the instances of a mask of any size; `truth_instances` does the same in memory.

    Parameters
    ----------
    mask : Image
        Volume whose voxels are not 0 where a synapse is.
    dilate_sz : int
        Side of the decoder's dilation box, voxels.
    work : Path
        Folder for the result and the records; the caller removes it.
    block_shape, num_workers, workers
        As in `synpol.decode_blockwise`.

    Returns
    -------
    Image
        Numbers of the instances on the voxels of the mask, 0 elsewhere.
    """
    blocks = BlockGrid.of(mask.shape_vx, block_shape)
    digest = hash_of({"mask": identity_of(mask), "block": blocks.block, "code": MaskStage.version})
    with Driver(work, f"labelling of {mask.path}", num_workers, workers) as driver:
        folder = work / f"mask-{digest[:16]}"
        image = _prepared(mask, work, blocks, folder, digest)
        driver.run(
            MaskStage(
                folder=folder,
                grid=blocks.grid,
                polarity=image.path,
                mask=mask.path,
                blocks=blocks,
            )
        )
        complete(image)
    done = decode_blockwise(
        image.path,
        work,
        block_shape=blocks.block,
        num_workers=num_workers,
        thres_small=1,
        dilate_sz=dilate_sz,
        sides=False,
        work_dir=work,
        workers=workers,
    )
    return open_image(done.instances, channels=0)


def _prepared(mask: Image, work: Path, blocks: BlockGrid, folder: Path, digest: str) -> Image:
    """Open the array to write: as an interrupted run left it, or a new one."""
    return claim_image(join(work, "polarity"), digest).image_to_write(
        lambda overwrite: create_image(
            work,
            "polarity",
            shape=(Channels.count, *blocks.shape),
            dtype=np.uint8,
            voxel_size=mask.voxel_size,
            offset=mask.offset,
            unit=mask.unit,
            chunk_shape=(1, *blocks.block),
            attributes=begun(digest),
            overwrite=overwrite,
        ),
        forget=[folder],
    )


def is_mask(truth: Image) -> bool:
    """Return whether a label volume has at most one label, apart from 0."""
    blocks = BlockGrid.of(truth.shape_vx, [max(128, c) for c in truth.array.chunks])
    present: set[int] = set()
    for index in blocks_of(blocks.grid):
        labels = np.asarray(truth.array[blocks.slices(index)])
        present |= set(np.unique(labels[labels != 0]).tolist())
        if len(present) > 1:
            return False
    return True
