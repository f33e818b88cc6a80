"""Stage ``mask``: a mask of synapses as an array that the decoder takes; and its instances.

A mask that marks synapses without telling them apart stands for the components of its dilation,
which is what the decoder finds in a union channel. So it is handed to the decoder.
"""

from __future__ import annotations

import shutil
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
from synpol.errors import InputError
from synpol.files import join
from synpol.images.identity import hash_of, identity_of
from synpol.images.image import COMPLETE, HASH, Image, open_image
from synpol.images.writing import complete, create_image
from synpol.polarity import PLAIN, Channels

if TYPE_CHECKING:
    from synpol.config import Workers


@dataclass(frozen=True)
class MaskArrays:
    """A mask and the polarity array that is made from it, open.

    Attributes
    ----------
    mask : zarr.Array
        The mask; (z, y, x).
    polarity : zarr.Array
        The array to write; (3, z, y, x).
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
    """What `synpol.evaluation.scores.truth_instances` makes of a mask, for a mask of any size.

    Parameters
    ----------
    mask : Image
    dilate_sz : int
        Of the decoder.
    work : Path
        Folder for the result and records; whoever is done with the result removes it.
    block_shape, num_workers, workers
        As in `synpol.decode_blockwise`.

    Returns
    -------
    Image
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
    """The array to write: as an interrupted run left it, or a new one."""
    try:
        found = open_image(join(work, "polarity"), channels=Channels.count, mode="r+")
        if found.array.attrs.get(HASH) == digest:
            return found
    except InputError:
        pass
    shutil.rmtree(folder, ignore_errors=True)
    return create_image(
        work,
        "polarity",
        shape=(Channels.count, *blocks.shape),
        dtype=np.uint8,
        voxel_size=mask.voxel_size,
        offset=mask.offset,
        unit=mask.unit,
        chunk_shape=(1, *blocks.block),
        attributes={HASH: digest, COMPLETE: False},
        overwrite=True,
    )


def is_mask(truth: Image) -> bool:
    """Whether a label volume has one single label."""
    blocks = BlockGrid.of(truth.shape_vx, [max(128, c) for c in truth.array.chunks])
    found: set[int] = set()
    for index in blocks_of(blocks.grid):
        labels = np.asarray(truth.array[blocks.slices(index)])
        found |= set(np.unique(labels[labels != 0]).tolist())
        if len(found) > 1:
            return False
    return True
