"""Stage ``mask``: write a mask of synapses as a polarity array, and decode it into instances.

A mask marks synapses but does not separate them. The instances of a mask are the components of its
dilation. The decoder finds just these components in a union channel, so the stage writes the mask
as the union channel of a polarity array.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from synpol.blockwise.grid import BlockGrid
from synpol.blockwise.image_stage import ImageStage
from synpol.blockwise.run import run_image_stage
from synpol.blockwise.stage import blocks_of
from synpol.decoding.dilation import Box
from synpol.decoding.job import decode_blockwise
from synpol.images.image import Image, open_image
from synpol.images.marks import MARKS, without_marks
from synpol.polarity import PLAIN, Channels

if TYPE_CHECKING:
    from synpol.config import Workers


class MaskStage(ImageStage):
    """Write a mask as the union channel of a polarity array, block by block."""

    name = "mask"
    version = 1
    dtype = np.uint8
    channels = Channels.count

    def transform(self, voxels: np.ndarray) -> np.ndarray:
        polarity = np.zeros((Channels.count, *voxels.shape[-3:]), np.uint8)
        PLAIN.union(polarity)[voxels.reshape(voxels.shape[-3:]) != 0] = 255
        return polarity


def instances_of_mask(
    mask: Image,
    dilate_sz: Box,
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
    dilate_sz : int or 3 ints
        Box of the decoder's dilation, voxels.
    work : Path
        Folder for the result and the records; the caller removes it.
    block_shape, num_workers, workers
        As in `synpol.decode_blockwise`.

    Returns
    -------
    Image
        Numbers of the instances on the voxels of the mask, 0 elsewhere.
    """
    union = run_image_stage(
        MaskStage(),
        (mask.without(MARKS) if mask.is_marked else mask).source,
        work,
        block_shape=block_shape,
        num_workers=num_workers,
        work_dir=work,
        workers=workers,
    )
    done = decode_blockwise(
        union.path,
        work,
        block_shape=block_shape,
        num_workers=num_workers,
        thres_small=1,
        dilate_sz=dilate_sz,
        sides=False,
        work_dir=work,
        workers=workers,
    )
    return open_image(done.instances, channels=0)


def is_mask(truth: Image) -> bool:
    """Return whether a label volume has at most one label, apart from 0 and marks."""
    blocks = BlockGrid.of(truth.shape_vx, [max(128, c) for c in truth.array.chunks])
    present: set[int] = set()
    for index in blocks_of(blocks.grid):
        labels = np.asarray(truth.array[blocks.slices(index)])
        if truth.is_marked:
            labels = without_marks(labels)
        present |= set(np.unique(labels[labels != 0]).tolist())
        if len(present) > 1:
            return False
    return True
