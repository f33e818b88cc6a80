"""List the stages of a decoding, for the job that runs them, for the plan, and for the hash.

label -> dilate -> merge 1 .. n -> number -> resolve n .. 1 -> relabel (-> rescale)
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from synpol.blockwise.grid import BlockGrid
from synpol.blockwise.run import records_of
from synpol.blockwise.stage import AnyStage
from synpol.decoding.dilate import DilateStage
from synpol.decoding.dilation import Box
from synpol.decoding.label import LabelStage
from synpol.decoding.merge import MergeStage, groups_folder
from synpol.decoding.number import NumberStage, ResolveStage
from synpol.decoding.reference import threshold_of
from synpol.decoding.relabel import RelabelStage
from synpol.decoding.rescale import RescaleStage
from synpol.files import join
from synpol.images.identity import hash_of, identity_of
from synpol.images.image import Image
from synpol.polarity import Channels

#: kinds of the stages, in order; the hash of a result holds their versions in this order
STAGES: tuple[type[AnyStage], ...] = (
    LabelStage,
    DilateStage,
    MergeStage,
    NumberStage,
    ResolveStage,
    RelabelStage,
    RescaleStage,
)


@dataclass(frozen=True)
class DecodeOptions:
    """Everything but the prediction on which the result depends; see `decode_blockwise`."""

    block_shape: tuple[int, int, int]
    thres: float = 0.5
    thres_small: int = 128
    dilate_sz: Box = 5
    exclusive: bool = False
    semantic: bool = False
    sides: bool = True
    scale_factors: tuple[float, ...] = (1.0, 1.0, 1.0)

    @property
    def dtype(self) -> np.dtype:
        """Type of the instances."""
        return np.dtype(np.uint8 if self.semantic else np.uint64)


def decode_hash(source: Image, options: DecodeOptions) -> str:
    """Hash everything on which the instances depend."""
    versions = [stage.version for stage in STAGES if stage.version]
    return hash_of({"source": identity_of(source), "options": asdict(options), "code": versions})


def decoding_stages(
    *,
    prediction: str,
    dtype: np.dtype,
    output: str,
    folder: Path,
    blocks: BlockGrid,
    target: BlockGrid,
    options: DecodeOptions,
) -> list[AnyStage]:
    """Return the stages of a decoding, in order.

    Parameters
    ----------
    prediction : str
        Path or URL of the polarity array.
    dtype : dtype
        Type of that array.
    output : str
        Path or URL of the container with the array ``instances/s0``.
    folder : Path
        Folder of all records of this decoding.
    blocks, target : BlockGrid
        Blocks of the prediction, and of the instances. They differ where the instances are resized.
    options : DecodeOptions
        The options.
    """
    is_resized = target.shape != blocks.shape
    instances = join(output, "instances", "s0")
    label = LabelStage(
        folder=folder / "label",
        prediction=prediction,
        voxel_bytes=Channels.count * dtype.itemsize,
        blocks=blocks,
        threshold=threshold_of(dtype, options.thres, options.exclusive, full_scale=False),
        dilate_sz=options.dilate_sz,
        sides=options.sides,
    )
    dilate = DilateStage(
        folder=folder / "dilate",
        labelled=label.folder,
        blocks=blocks,
        thres_small=options.thres_small,
        dilate_sz=options.dilate_sz,
        sides=options.sides,
    )
    merges = merge_stages(folder, dilate.folder, blocks, options.thres_small)
    number = NumberStage(
        folder=folder / "number",
        grid=(blocks.grid[0], 1, 1),
        blocks=blocks,
        finished=(dilate.folder, *(merge.folder for merge in merges)),
    )
    resolves = resolve_stages(merges)
    relabel = RelabelStage(
        folder=folder / "relabel-full" if is_resized else records_of(folder, "relabel", output),
        instances=join(str(folder), "instances", "s0") if is_resized else instances,
        voxel_bytes=options.dtype.itemsize,
        blocks=blocks,
        labelled=label.folder,
        dilated=dilate.folder,
        relabelling=resolves[-1].folder if resolves else None,
        numbers=number,
        sides=options.sides,
        semantic=options.semantic,
    )
    stages: list[AnyStage] = [label, dilate, *merges, number, *resolves, relabel]
    if is_resized:
        rescale = RescaleStage(
            folder=records_of(folder, "rescale", output),
            instances=instances,
            full=relabel.instances,
            voxel_bytes=options.dtype.itemsize,
            blocks=target,
            shape=blocks.shape,
        )
        stages.append(rescale)
    return stages


def merge_stages(
    folder: Path, dilated: Path, blocks: BlockGrid, thres_small: int
) -> list[MergeStage]:
    """Return a stage for each depth of the tree of groups, from the blocks up to one group."""
    stages: list[MergeStage] = []
    for depth, (below, grid) in enumerate(itertools.pairwise(blocks.tree()), start=1):
        stage = MergeStage(
            folder=groups_folder(folder, blocks) / f"merge-{depth}",
            grid=grid,
            members=stages[-1].folder if stages else dilated,
            member_grid=below,
            side=2 if stages else blocks.group,
            lowest=not stages,
            thres_small=thres_small,
        )
        stages.append(stage)
    return stages


def resolve_stages(merges: list[MergeStage]) -> list[ResolveStage]:
    """Return a stage for each depth of the tree of groups, from the topmost group down."""
    stages: list[ResolveStage] = []
    for depth, merge in reversed(list(enumerate(merges, start=1))):
        stage = ResolveStage(
            folder=merge.folder.with_name(f"resolve-{depth}"),
            grid=merge.grid,
            merged=merge.folder,
            above=stages[-1].folder if stages else None,
        )
        stages.append(stage)
    return stages
