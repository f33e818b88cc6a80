"""Stage ``relabel``: turn the states of a block's voxels into its instances."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from synpol.blockwise.grid import parent
from synpol.blockwise.records import Index, read_record
from synpol.blockwise.stage import ArrayStage
from synpol.decoding.dilate import StateNames
from synpol.decoding.fragments import KEPT
from synpol.decoding.label import Runs
from synpol.decoding.number import Numbering, NumberStage, read_relabelling
from synpol.decoding.runs import RowRuns
from synpol.images.sparse import SparseBlock
from synpol.polarity import side_labels

if TYPE_CHECKING:
    import zarr


@dataclass(frozen=True)
class Opened:
    """What a process opens to relabel blocks.

    Attributes
    ----------
    instances : zarr.Array
        The array to write.
    numbering : Numbering
        Numbers of the synapses.
    """

    instances: zarr.Array
    numbering: Numbering


@dataclass
class _NamesRecord:
    """The names of the states of a block."""

    state: StateNames


@dataclass
class _RunsRecord:
    """The union voxels of a block."""

    run: Runs


@dataclass(frozen=True)
class RelabelStage(ArrayStage[Opened, None]):
    """Write the instances of every block.

    Attributes
    ----------
    instances : str
        Path or URL of the array to write.
    voxel_bytes : int
        Number of bytes of a voxel of that array.
    blocks : BlockGrid
        Blocks of the volume.
    labelled, dilated : Path
        Folders of the label records (the voxels) and of the dilate records (what claims them).
    relabelling : Path or None
        Folder of what the groups of tree depth 1 tell their blocks; None for a single block.
    numbers : NumberStage
        The stage that numbered the synapses.
    sides, semantic : bool
        As in `synpol.decode_blockwise`.
    """

    instances: str
    voxel_bytes: int
    labelled: Path
    dilated: Path
    relabelling: Path | None
    numbers: NumberStage
    sides: bool
    semantic: bool

    name = "relabel"
    reads = "its runs, the record of its group, the numbering"
    leaves = "instances"
    version = 2
    voxel_cost = 0.25
    prefetch = 2  # the data sync of a block takes longer than the next block
    seconds_per_voxel = 1e-9

    @property
    def bytes_written(self) -> int:
        return int(np.prod(self.blocks.shape)) * self.voxel_bytes

    def open(self) -> Opened:
        from synpol.images.image import open_image

        array = open_image(self.instances, channels=0, mode="r+").array
        return Opened(array, self.numbers.numbering())

    @property
    def filled(self) -> str:
        return self.instances

    def target(self, opened: Opened) -> zarr.Array:
        return opened.instances

    def compute(self, index: Index, opened: Opened, given: None) -> SparseBlock | None:
        names = read_record(self.dilated, index, _NamesRecord).state
        synapse, pre, post = names.synapse, names.pre, names.post
        if not len(synapse):
            return None
        if self.relabelling is not None:
            relabelling = read_relabelling(self.relabelling, parent(index, self.blocks.group))
            synapse = relabelling.of("synapse", synapse)
            pre, post = relabelling.of("pre", pre), relabelling.of("post", post)
        label = self._label(opened.numbering.of(synapse), pre == KEPT, post == KEPT)
        if not label.any():
            return None
        shape = self.blocks.shape_of(index)
        run = read_record(self.labelled, index, _RunsRecord).run
        rows, of = RowRuns.cut(*run.ranges(), shape)
        value = label.astype(opened.instances.dtype)[run.state[of]]
        kept = np.flatnonzero(value)
        rows = rows[kept]
        return SparseBlock(shape, rows.z, rows.y, rows.x, rows.end, value[kept])

    def _label(self, number: np.ndarray, pre: np.ndarray, post: np.ndarray) -> np.ndarray:
        """Label the voxels of synapses: post where it is kept, else pre, else nothing."""
        if self.semantic:
            return side_labels(np.uint64(1), pre, post)
        if not self.sides:
            return np.where(pre, number, np.uint64(0))
        return side_labels(number, pre, post)
