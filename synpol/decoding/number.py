"""Stages ``number`` and ``resolve``: number the synapses, and tell the blocks.

Synapse n is the n-th component of the dilated union by its first voxel in C order. The first voxels
of one layer of blocks in z all come before those of the next layer. So each layer is sorted by
itself, and a sum over the layers before it gives the rest. (Sums over single blocks would be wrong,
since C order interleaves the blocks of a layer.)

On the way down, every group tells its members what became of their open components.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from synpol.blockwise.grid import BlockGrid, parent
from synpol.blockwise.records import Index, read_record, record_path, stored, write_record
from synpol.blockwise.stage import Stage, blocks_of
from synpol.decoding.fragments import Relabelling
from synpol.files import write_whole
from synpol.synapses.statistics import Rows


@dataclass
class NumberRecord:
    """Record of a layer: its finished synapses.

    Attributes
    ----------
    count : () int64
        Number of synapses.
    rows : Rows
        Rows of the synapses.
    """

    count: np.ndarray
    rows: Rows


@dataclass
class _CountRecord:
    """The number of synapses of a layer alone."""

    count: np.ndarray


@dataclass
class _RowsRecord:
    """The synapses that a block or group finished."""

    rows: Rows


@dataclass
class _RelabellingRecord:
    """The relabelling of any record that holds one."""

    relabelling: Relabelling = field(metadata=stored(""))


@dataclass(frozen=True)
class NumberStage(Stage[None, None, NumberRecord]):
    """Sort the finished synapses of every layer of blocks; its grid is ``(layers, 1, 1)``.

    Attributes
    ----------
    blocks : BlockGrid
        Blocks of the volume.
    finished : tuple of Path
        Folders of the records that hold finished synapses: of the blocks, of the groups of tree
        depth 1, and so on.
    """

    blocks: BlockGrid
    finished: tuple[Path, ...]

    name = "number"
    job = "a layer of blocks in z"
    reads = "the synapses of that layer that any group finished"
    leaves = "their first voxels, sorted, and their rows of the table"
    version = 2
    job_cost = 2**20
    #: seconds for each block of the volume
    seconds_per_block = 2e-4

    @property
    def estimated_seconds(self) -> float:
        return float(np.prod(self.blocks.grid)) * self.seconds_per_block

    def compute(self, index: Index, opened: None, given: None) -> NumberRecord:
        layer = index[0]
        plane = self.blocks.shape[1] * self.blocks.shape[2]
        first = np.uint64(1 + layer * self.blocks.block[0] * plane)
        last = np.uint64(first + np.uint64(self.blocks.block[0] * plane))
        parts = []
        for depth, grid in enumerate(self.blocks.tree()):
            for _, y, x in blocks_of((1, *grid[1:])):
                rows = self.rows(depth, (self.blocks.layer_of(layer, depth), y, x))
                begin, end = np.searchsorted(rows.synapse, [first, last])
                parts.append(rows[np.arange(begin, end)])
        rows = Rows.merged(parts)
        return NumberRecord(np.array(len(rows.synapse)), rows)

    def write(self, index: Index, opened: None, result: NumberRecord) -> None:
        keys = io.BytesIO()
        np.save(keys, result.rows.synapse)
        path = self.keys_path(index[0])
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, keys.getbuffer())
        write_record(self.folder, index, result)

    def rows(self, depth: int, index: Index) -> Rows:
        """Read the synapses that were finished in a block (depth 0) or in a group."""
        return read_record(self.finished[depth], index, _RowsRecord).rows

    def keys_path(self, layer: int) -> Path:
        """Return the path of the sorted names of a layer's synapses, to be mapped into memory."""
        return record_path(self.folder, (layer, 0, 0)).with_suffix(".keys.npy")

    def layer(self, layer: int) -> Rows:
        """Read the sorted synapses of a layer that is done."""
        return read_record(self.folder, (layer, 0, 0), NumberRecord).rows

    def numbering(self) -> Numbering:
        """Return the finished numbering."""
        counts = [
            int(read_record(self.folder, (layer, 0, 0), _CountRecord).count)
            for layer in range(self.grid[0])
        ]
        return Numbering(self, np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]))


class Numbering:
    """Look up the numbers of synapses; maps the names of the layers that it is asked about.

    Parameters
    ----------
    stage : NumberStage
        The stage, which is done.
    before : (layers + 1,) int64
        Number of synapses before each layer, and in all.
    """

    def __init__(self, stage: NumberStage, before: np.ndarray) -> None:
        self.stage = stage
        self.before = before
        self._keys: dict[int, np.ndarray] = {}

    @property
    def count(self) -> int:
        """Number of synapses."""
        return int(self.before[-1])

    def of(self, names: np.ndarray) -> np.ndarray:
        """Return the numbers of finished synapses; uint64, from 1 on."""
        blocks = self.stage.blocks
        deep = np.uint64(blocks.block[0] * blocks.shape[1] * blocks.shape[2])
        layers = ((names - np.uint64(1)) // deep).astype(np.int64)
        numbers = np.zeros(len(names), np.uint64)
        for layer in np.unique(layers).tolist():
            if layer not in self._keys:
                if len(self._keys) > 64:
                    self._keys.clear()
                self._keys[layer] = np.load(self.stage.keys_path(layer), mmap_mode="r")
            here = layers == layer
            rank = np.searchsorted(self._keys[layer], names[here])
            numbers[here] = (rank + 1 + self.before[layer]).astype(np.uint64)
        return numbers


@dataclass(frozen=True)
class ResolveStage(Stage[None, None, Relabelling]):
    """Tell the members of every group of one tree depth what became of their open components.

    Attributes
    ----------
    merged : Path
        Folder of the merge records of this tree depth.
    above : Path or None
        Folder of the resolve records of the next tree depth; None for the topmost group.
    """

    merged: Path
    above: Path | None

    job = "a group"
    reads = "its merge record, and the record of its parent"
    leaves = "what became of the open components of its members"
    version = 0  # counted with `NumberStage`
    job_cost = 2**18
    seconds_per_job = 5e-4

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.folder.name.replace("-", " ")

    def compute(self, index: Index, opened: None, given: None) -> Relabelling:
        relabelling = read_relabelling(self.merged, index)
        if self.above is None:
            return relabelling
        return relabelling.then(read_relabelling(self.above, parent(index, 2)))


def read_relabelling(folder: Path, index: Index) -> Relabelling:
    """Read what became of the open components of a group's members."""
    return read_record(folder, index, _RelabellingRecord).relabelling
