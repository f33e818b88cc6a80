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
class CompareStage(VoxelStage[LabelArrays, LabelBlocks, Overlaps]):
    """Find the pairs of labels that overlap in every block.

    Attributes
    ----------
    predicted, other : str or ImageSource
        The label arrays.
    begin : (int, int, int)
        Position of the prediction's first voxel in the other volume, in voxels of the prediction.
    multiple : (int, int, int)
        Number of voxels of the prediction along each axis of a voxel of the other volume.
    predicted_only : bool
        Whether to leave out voxels without a predicted label.
    blocks : BlockGrid
        Blocks of the prediction.
    """

    predicted: str | ImageSource
    other: str | ImageSource
    begin: Index
    multiple: Index
    predicted_only: bool

    name = "compare"
    version = 1

    def open(self) -> LabelArrays:
        return LabelArrays(
            predicted=open_image(self.predicted, channels=0).array,
            other=open_image(self.other, channels=0).array,
        )

    def read(self, index: Index, opened: LabelArrays) -> LabelBlocks:
        block = self.blocks.slices(index)
        fine = shifted(block, self.begin)
        coarse = tuple(
            slice(f.start // m, -(-f.stop // m)) for f, m in zip(fine, self.multiple, strict=True)
        )
        labels = _read_inside(opened.other, coarse, self.other)
        for axis, (wanted, m) in enumerate(zip(fine, self.multiple, strict=True)):
            if m > 1:
                labels = np.repeat(labels, m, axis=axis)
                first = wanted.start % m
                labels = np.take(labels, range(first, first + wanted.stop - wanted.start), axis)
        return LabelBlocks(
            predicted=read_voxels(opened.predicted, block, self.predicted), other=labels
        )

    def compute(self, index: Index, opened: LabelArrays, given: LabelBlocks) -> Overlaps:
        predicted, other = given.predicted, given.other
        if self.predicted_only:
            labelled = predicted != 0
            predicted, other = predicted[labelled], other[labelled]
        return Overlaps.of([(predicted, other)])


def _read_inside(
    array: zarr.Array, where: Sequence[slice], source: str | ImageSource
) -> np.ndarray:
    """Read a region of labels that may reach beyond the array, where there are none."""
    inside = [
        slice(min(max(w.start, 0), n), max(min(w.stop, n), 0))
        for w, n in zip(where, array.shape, strict=True)
    ]
    if inside == list(where):
        return read_voxels(array, tuple(where), source)
    found = np.zeros([w.stop - w.start for w in where], array.dtype)
    if all(i.start < i.stop for i in inside):
        at = (
            slice(i.start - w.start, i.stop - w.start) for i, w in zip(inside, where, strict=True)
        )
        found[tuple(at)] = read_voxels(array, tuple(inside), source)
    return found


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
    )
    shutil.rmtree(truth_dir, ignore_errors=True)
    return Evaluation.of_overlaps(overlaps, labels, min_size)


def overlaps_blockwise(
    predicted: Image,
    other: Image,
    what: str,
    *,
    coarser: bool = False,
    predicted_only: bool = False,
    partly: bool = False,
    block_shape: Sequence[int],
    work_dir: str | os.PathLike[str],
    num_workers: int = 1,
    workers: Workers | None = None,
) -> Overlaps:
    """Find the overlaps of the labels of two volumes of any size.

    Parameters
    ----------
    predicted, other : Image
        Label volumes; the other volume covers the prediction.
    what : str
        Name of the other volume, for messages.
    coarser : bool
        Whether the other volume may have larger voxels, in whole multiples along each axis.
    predicted_only : bool
        Whether to leave out voxels without a predicted label.
    partly : bool
        Whether the other volume may cover a part of the prediction; beyond it there is no label.
    block_shape, work_dir, num_workers, workers
        As in `evaluate_blockwise`.

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
    begin = other.place_of(predicted, what, coarser, partly)
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
            predicted=predicted.source,
            other=other.source,
            begin=begin,
            multiple=other.multiple_of(predicted, what),
            predicted_only=predicted_only,
            blocks=blocks,
        )
        driver.run(stage)
        records = list(stage.records(Overlaps))
        shutil.rmtree(folder)
    return Overlaps.joined(records)
