"""Stage ``compare``: which labels of two volumes meet in a block; and scores, made of all blocks.

Memory follows the number of instances, not the volume: what a block leaves is a row for every pair
of labels that meet in it.
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
from synpol.blockwise.records import Index, read_record, work_folder
from synpol.blockwise.stage import VoxelStage, blocks_of
from synpol.errors import InputError
from synpol.evaluation.mask_truth import instances_of_mask, is_mask
from synpol.evaluation.matching import meetings
from synpol.evaluation.scores import Evaluation
from synpol.images.identity import hash_of, identity_of
from synpol.images.image import Image, open_image, shifted
from synpol.images.writing import check_writable
from synpol.polarity import LabelKind

if TYPE_CHECKING:
    from synpol.config import Workers


@dataclass(frozen=True)
class LabelArrays:
    """Two arrays of labels, open.

    Attributes
    ----------
    predicted, other : zarr.Array
        Labels of the prediction and of the volume that it is compared with; (z, y, x).
    """

    predicted: zarr.Array
    other: zarr.Array


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
class Overlaps:
    """Pairs of labels that lie on the same voxels: the record of one block.

    Attributes
    ----------
    pairs : (k, 2) uint64
        Label of the prediction, label of the other volume.
    counts : (k,) int64
        Number of voxels of each pair.
    """

    pairs: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class CompareStage(VoxelStage[LabelArrays, LabelBlocks, Overlaps]):
    """Find the pairs of labels that meet in every block.

    Attributes
    ----------
    predicted, other : str
        Paths or URLs of the label arrays.
    begin : (int, int, int)
        Where the prediction begins within the other, in voxels of the prediction.
    multiple : (int, int, int)
        Voxels of the prediction that make one of the other.
    predicted_only : bool
        Leave out what meets no predicted label.
    blocks : BlockGrid
        Of the prediction.
    """

    predicted: str
    other: str
    begin: Index
    multiple: Index
    predicted_only: bool
    blocks: BlockGrid

    name = "compare"
    version = 1

    def open(self) -> LabelArrays:
        return LabelArrays(
            predicted=open_image(self.predicted, channels=0).array,
            other=open_image(self.other, channels=0).array,
        )

    def read(self, index: Index, opened: LabelArrays) -> LabelBlocks:
        where = self.blocks.slices(index)
        fine = shifted(where, self.begin)
        coarse = tuple(
            slice(w.start // m, -(-w.stop // m)) for w, m in zip(fine, self.multiple, strict=True)
        )
        labels = np.asarray(opened.other[coarse])
        for axis, (wanted, m) in enumerate(zip(fine, self.multiple, strict=True)):
            if m > 1:
                labels = np.repeat(labels, m, axis=axis)
                first = wanted.start % m
                labels = np.take(labels, range(first, first + wanted.stop - wanted.start), axis)
        return LabelBlocks(predicted=np.asarray(opened.predicted[where]), other=labels)

    def compute(self, index: Index, opened: LabelArrays, given: LabelBlocks) -> Overlaps:
        predicted, other = given.predicted, given.other
        if self.predicted_only:
            there = predicted != 0
            predicted, other = predicted[there], other[there]
        pairs, counts = meetings([(predicted, other)])
        return Overlaps(pairs=pairs, counts=counts)


def evaluate_blockwise(
    predicted: Image,
    truth: Image,
    labels: LabelKind = "polarity",
    min_size: int = 0,
    dilate_sz: int = 5,
    *,
    block_shape: Sequence[int],
    work_dir: str | os.PathLike[str],
    num_workers: int = 1,
    workers: Workers | None = None,
) -> Evaluation:
    """Compare two label volumes of any size.

    What is done is kept while the job is unfinished, and looked at anew by the next one after that:
    labels may be corrected in place.

    Parameters
    ----------
    predicted, truth : Image
        The truth covers the prediction, on the same voxel grid; what lies beside does not count.
    labels : {"polarity", "union"}
        What both mark; see `synpol.evaluation.scores.truth_instances`.
    min_size : int
        As in `Evaluation.of`.
    dilate_sz : int
        Of the decoder, for a truth that is a mask.
    block_shape : 3 ints
        Voxels that a worker compares at once. Any shape gives the same result.
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
        Different voxels, values that are not labels, or another driver works in `work_dir`.
    RuntimeError
        Blocks failed; what is done is kept.
    """
    truth.place_of(predicted, "the truth")
    apart = Path(work_dir) / "truth"
    if labels == "union" and is_mask(truth):
        truth = instances_of_mask(
            truth,
            dilate_sz,
            apart,
            block_shape=block_shape,
            num_workers=num_workers,
            workers=workers,
        )
    pairs, counts = meetings_blockwise(
        predicted,
        truth,
        "the truth",
        block_shape=block_shape,
        work_dir=work_dir,
        num_workers=num_workers,
        workers=workers,
    )
    shutil.rmtree(apart, ignore_errors=True)
    return Evaluation.of_meetings(pairs, counts, labels, min_size)


def meetings_blockwise(
    predicted: Image,
    other: Image,
    what: str,
    *,
    coarser: bool = False,
    predicted_only: bool = False,
    block_shape: Sequence[int],
    work_dir: str | os.PathLike[str],
    num_workers: int = 1,
    workers: Workers | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """What `synpol.evaluation.matching.meetings` finds in all blocks of two label volumes.


    Parameters
    ----------
    predicted, other : Image
        The other covers the prediction.
    what : str
        What the other is, for messages.
    coarser : bool
        Whether its voxels may be whole multiples of those of the prediction.
    predicted_only : bool
        Leave out what meets no predicted label.
    block_shape, work_dir, num_workers, workers
        As in `evaluate_blockwise`.

    Returns
    -------
    pairs : (k, 2) uint64
    counts : (k,) int64
        Voxels of the prediction; a pair may come more than once.
    """
    for image in (predicted, other):
        if image.array.dtype.kind not in "uib":
            raise InputError(f"{image.path} is {image.array.dtype}; labels are whole numbers")
    begin = other.place_of(predicted, what, coarser)
    blocks = BlockGrid.of(predicted.shape_vx, block_shape)
    sources = [identity_of(image) for image in (predicted, other)]
    digest = hash_of(
        {
            "sources": sources,
            "block": blocks.block,
            "only": predicted_only,
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
            grid=blocks.grid,
            predicted=predicted.path,
            other=other.path,
            begin=begin,
            multiple=other.multiple_of(predicted, what),
            predicted_only=predicted_only,
            blocks=blocks,
        )
        driver.run(stage)
        records = [read_record(folder, index, Overlaps) for index in blocks_of(blocks.grid)]
        shutil.rmtree(folder)
    pairs = np.concatenate([record.pairs for record in records])
    return pairs, np.concatenate([record.counts for record in records])
