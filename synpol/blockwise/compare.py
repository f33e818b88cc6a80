"""Stage ``compare``: which labels of two volumes meet in a block; and scores, made of all blocks.

Memory follows the number of instances, not the volume: what a block leaves is a row for every pair
of labels that meet in it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from synpol.arrays import Image, open_image, shifted
from synpol.blockwise.driver import Driver
from synpol.blockwise.geometry import BlockGrid
from synpol.blockwise.output import hash_of, identity_of, work_folder
from synpol.blockwise.records import Index, read_record
from synpol.blockwise.stage import VoxelStage, blocks_of
from synpol.errors import InputError
from synpol.evaluation import Evaluation, Labels, meetings, truth_instances

if TYPE_CHECKING:
    from synpol.config import Workers

VERSION = 1


@dataclass(frozen=True)
class CompareStage(VoxelStage):
    """Find the pairs of labels that meet in every block.

    Attributes
    ----------
    predicted, truth : str
        Paths or URLs of the label arrays.
    begin : (int, int, int)
        Voxel of the truth at which the prediction begins.
    blocks : BlockGrid
        Of the prediction.
    """

    predicted: str
    truth: str
    begin: Index
    blocks: BlockGrid

    name = "compare"

    def start(self) -> Any:
        return [open_image(path, channels=0).array for path in (self.predicted, self.truth)]

    def read(self, index: Index, loaded: Any) -> Any:
        where = self.blocks.slices(index)
        predicted, truth = loaded
        return [np.asarray(predicted[where]), np.asarray(truth[shifted(where, self.begin)])]

    def compute(self, index: Index, loaded: Any, given: Any) -> dict[str, np.ndarray]:
        pairs, counts = meetings([tuple(given)])
        return {"pairs": pairs, "counts": counts}


def evaluate_blockwise(
    predicted: Image,
    truth: Image,
    labels: Labels = "polarity",
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
        What both mark; see `synpol.evaluation.truth_instances`. A truth that is a mask without ids
        is labelled in memory.
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
    begin = truth.place_of(predicted, "the truth")
    for image in (predicted, truth):
        if image.array.dtype.kind not in "uib":
            raise InputError(f"{image.path} is {image.array.dtype}; labels are whole numbers")
    if labels == "union" and is_mask(truth):
        whole = truth_instances(np.asarray(truth.array[:]), labels, dilate_sz)
        whole = whole[shifted([slice(0, n) for n in predicted.shape_vx], begin)]
        return Evaluation.of([(np.asarray(predicted.array[:]), whole)], labels, min_size)
    blocks = BlockGrid.of(predicted.shape_vx, block_shape)
    sources = [identity_of(image) for image in (predicted, truth)]
    digest = hash_of({"sources": sources, "block": blocks.block, "code": VERSION})
    work = work_folder("", work_dir)
    what = f"comparison of {predicted.path} with {truth.path}"
    with Driver(work, what, num_workers, workers) as driver:
        folder = work / f"compare-{digest[:16]}"
        stage = CompareStage(folder, blocks.grid, predicted.path, truth.path, begin, blocks)
        driver.run(stage)
        records = [read_record(folder, index) for index in blocks_of(blocks.grid)]
        shutil.rmtree(folder)
    pairs = np.concatenate([record["pairs"] for record in records])
    counts = np.concatenate([record["counts"] for record in records])
    return Evaluation.of_meetings(pairs, counts, labels, min_size)


def is_mask(truth: Image) -> bool:
    """Whether a label volume has one single label."""
    found: set[int] = set()
    for begin in range(0, truth.shape_vx[0], truth.array.chunks[0]):
        layer = np.asarray(truth.array[begin : begin + truth.array.chunks[0]])
        found |= set(np.unique(layer[layer != 0]).tolist())
        if len(found) > 1:
            return False
    return True
