"""Stage ``compare``: find the labels of two volumes that overlap, and make scores from all blocks.

The record of a block has one row for each pair of labels that overlap in this block. So the memory
grows with the number of instances and not with the volume.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import zarr

from synpol.blockwise.driver import Driver
from synpol.blockwise.grid import BlockGrid
from synpol.blockwise.records import Index, work_folder
from synpol.blockwise.stage import VoxelStage
from synpol.decoding.dilation import Box
from synpol.errors import InputError
from synpol.evaluation.mask_truth import instances_of_mask, is_mask
from synpol.evaluation.matching import Overlaps
from synpol.evaluation.scores import Evaluation
from synpol.images.identity import hash_of, identity_of
from synpol.images.image import Image, open_image, shifted
from synpol.images.marks import is_mark
from synpol.images.reading import read_voxels
from synpol.images.writing import check_writable
from synpol.polarity import LabelKind

if TYPE_CHECKING:
    from synpol.config import ImageSource, Workers


@dataclass(frozen=True)
class LabelArrays:
    """Open arrays of the labels to compare.

    Attributes
    ----------
    predicted, other : zarr.Array
        Labels of the prediction and of the volume that it is compared with; (z, y, x).
    marks : zarr.Array or None
        Labels whose marks are put over those of the other volume.
    """

    predicted: zarr.Array
    other: zarr.Array
    marks: zarr.Array | None


@dataclass(frozen=True)
class LabelBlocks:
    """Labels of one block, voxel by voxel.

    Attributes
    ----------
    predicted, other : (z, y, x) arrays of integers
        Labels of the prediction and of the other volume, of one shape.
    """

    predicted: np.ndarray
    other: np.ndarray


@dataclass(frozen=True)
class CompareStage(VoxelStage[LabelArrays, LabelBlocks, Overlaps]):
    """Find the pairs of labels that overlap in every block.

    Attributes
    ----------
    predicted, other : str or ImageSource
        The label arrays.
    begin : (int, int, int)
        Position of the prediction's first voxel in the other volume.
    blocks : BlockGrid
        Blocks of the prediction.
    marks : str, ImageSource or None
        Labels on the voxels of the other volume, whose marks (see `synpol.images.marks`) count.
    """

    predicted: str | ImageSource
    other: str | ImageSource
    begin: Index
    marks: str | ImageSource | None = None

    name = "compare"
    version = 1

    def open(self) -> LabelArrays:
        return LabelArrays(
            predicted=open_image(self.predicted, channels=0).array,
            other=open_image(self.other, channels=0).array,
            marks=None if self.marks is None else open_image(self.marks, channels=0).array,
        )

    def read(self, index: Index, opened: LabelArrays) -> LabelBlocks:
        block = self.blocks.slices(index)
        there = shifted(block, self.begin)
        other = read_voxels(opened.other, there, self.other)
        if opened.marks is not None and self.marks is not None:
            marks = read_voxels(opened.marks, there, self.marks)
            other = np.where(is_mark(marks), marks, other.astype(np.uint64))
        return LabelBlocks(read_voxels(opened.predicted, block, self.predicted), other)

    def compute(self, index: Index, opened: LabelArrays, given: LabelBlocks) -> Overlaps:
        return Overlaps.of([(given.predicted, given.other)])


def evaluate_blockwise(
    predicted: Image,
    truth: Image,
    labels: LabelKind = "polarity",
    min_size: int = 0,
    dilate_sz: Box = 5,
    *,
    block_shape: Sequence[int],
    work_dir: str | os.PathLike[str],
    num_workers: int = 1,
    workers: Workers | None = None,
) -> Evaluation:
    """Compare two label volumes of any size.

    An interrupted comparison continues where it stopped. A finished one is always done again,
    because labels may have been corrected in place.

    Parameters
    ----------
    predicted, truth : Image
        Label volumes with the same voxel size. The truth covers the prediction; the rest of the
        truth does not count.
    labels : {"polarity", "union"}
        What the labels of both volumes mark; see `synpol.evaluation.scores.truth_instances`.
    min_size : int
        Fewest voxels of each side of a synapse that is scored; see `Evaluation.of`.
    dilate_sz : int or 3 ints
        Box of the decoder's dilation, voxels; used if the truth is a mask.
    block_shape : 3 ints
        Shape of a block, voxels. The result does not depend on it.
    work_dir : path
        Folder for records, the lock and logs, shared by all workers.
    num_workers, workers
        As in `synpol.decode_blockwise`.

    Returns
    -------
    Evaluation

    Raises
    ------
    InputError
        The voxels do not fit, values are not labels, or another driver works in `work_dir`.
    RuntimeError
        Some blocks failed; the results of the others are kept.
    """
    truth.place_of(predicted, "the truth")
    truth_dir = Path(work_dir) / "truth"
    marks = truth if truth.is_marked else None
    if labels == "union" and is_mask(truth):
        truth = instances_of_mask(
            truth,
            dilate_sz,
            truth_dir,
            block_shape=block_shape,
            num_workers=num_workers,
            workers=workers,
        )
    overlaps = overlaps_blockwise(
        predicted,
        truth,
        "the truth",
        block_shape=block_shape,
        work_dir=work_dir,
        num_workers=num_workers,
        workers=workers,
        marks=marks,
    )
    shutil.rmtree(truth_dir, ignore_errors=True)
    return Evaluation.of_overlaps(overlaps, labels, min_size, marks is not None)


def overlaps_blockwise(
    predicted: Image,
    other: Image,
    what: str,
    *,
    block_shape: Sequence[int],
    work_dir: str | os.PathLike[str],
    num_workers: int = 1,
    workers: Workers | None = None,
    marks: Image | None = None,
) -> Overlaps:
    """Find the overlaps of the labels of two volumes of any size.

    Parameters
    ----------
    predicted, other : Image
        Label volumes; the other volume covers the prediction.
    what : str
        Name of the other volume, for messages.
    block_shape, work_dir, num_workers, workers
        As in `evaluate_blockwise`.
    marks : Image, optional
        Labels on the voxels of the other volume, whose marks are put over it.

    Returns
    -------
    Overlaps
        Pairs of all blocks, counted in voxels of the prediction.

    Raises
    ------
    InputError, RuntimeError
        As in `evaluate_blockwise`.
    """
    for image in (predicted, other):
        if image.array.dtype.kind not in "uib":
            raise InputError(f"{image.path} is {image.array.dtype}; labels are whole numbers")
    begin = other.place_of(predicted, what)
    blocks = BlockGrid.of(predicted.shape_vx, block_shape)
    sources = [identity_of(image) for image in (predicted, other)]
    digest = hash_of(
        {
            "sources": sources,
            "block": blocks.block,
            "code": CompareStage.version,
        }
    )
    work = work_folder("", work_dir)
    check_writable(work)
    with Driver(
        work, f"comparison of {predicted.path} with {other.path}", num_workers, workers
    ) as driver:
        folder = work / f"compare-{digest[:16]}"
        stage = CompareStage(
            folder=folder,
            predicted=predicted.source,
            other=other.source,
            begin=begin,
            blocks=blocks,
            marks=None if marks is None else marks.source,
        )
        driver.run(stage)
        records = list(stage.records(Overlaps))
        shutil.rmtree(folder)
    return Overlaps.joined(records)
