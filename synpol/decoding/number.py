"""Stages ``number`` and ``resolve``: which number a synapse gets, and how blocks learn it.

Synapse n is the n-th component of the dilated union by its first voxel in C order. The first
voxels of a layer of blocks in z all come before those of the next layer, so each layer is sorted by
itself and a sum over the layers before it gives the rest. (Sums over single blocks would be wrong:
C order interleaves the blocks of a layer.)

On the way down every group tells its members what became of their open components.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from synpol.blockwise.grid import BlockGrid, parent
from synpol.blockwise.records import Index, read_record, record_path, write_record
from synpol.blockwise.stage import Stage, blocks_of
from synpol.decoding.fragments import KINDS, Links, translate
from synpol.files import write_whole
from synpol.synapses.statistics import Rows, rows_from_arrays, rows_to_arrays

VERSION = 2


@dataclass(frozen=True)
class NumberStage(Stage):
    """Sort the finished synapses of every layer of blocks; its grid is ``(layers, 1, 1)``.

    Attributes
    ----------
    blocks : BlockGrid
    levels : tuple of Path
        Folders of the records of the blocks, of the groups of level 1, ...
    """

    blocks: BlockGrid
    levels: tuple[Path, ...]

    name = "number"
    job_cost = 2**20

    def compute(self, index: Index, loaded: Any, given: Any) -> Rows:
        layer = index[0]
        plane = self.blocks.shape[1] * self.blocks.shape[2]
        first = np.uint64(1 + layer * self.blocks.block[0] * plane)
        last = np.uint64(first + np.uint64(self.blocks.block[0] * plane))
        parts = []
        for level, grid in enumerate(self.blocks.levels()):
            for _, y, x in blocks_of((1, *grid[1:])):
                rows = self.rows(level, (layer >> level, y, x))
                begin, end = np.searchsorted(rows.synapse, [first, last])
                parts.append(rows[np.arange(begin, end)])
        return Rows.joined(parts)

    def write(self, index: Index, loaded: Any, result: Rows) -> None:
        rows = result
        keys = io.BytesIO()
        np.save(keys, rows.synapse)
        path = self.keys_path(index[0])
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, keys.getbuffer())
        count = np.array(len(rows.synapse))
        write_record(self.folder, index, {"count": count, **rows_to_arrays(rows)})

    def rows(self, level: int, index: Index) -> Rows:
        """The synapses that were finished in a block (level 0) or group."""
        return rows_from_arrays(read_record(self.levels[level], index))

    def keys_path(self, layer: int) -> Path:
        """Sorted names of the layer's synapses, to be mapped into memory."""
        return record_path(self.folder, (layer, 0, 0)).with_suffix(".keys.npy")

    def numbering(self) -> Numbering:
        """The finished numbering."""
        layers = self.grid[0]
        counts = [int(read_record(self.folder, (layer, 0, 0))["count"]) for layer in range(layers)]
        return Numbering(self, np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]))


class Numbering:
    """Looks up numbers; maps the sorted names of the layers that it is asked about."""

    def __init__(self, stage: NumberStage, before: np.ndarray) -> None:
        self.stage = stage
        self.before = before
        self._keys: dict[int, np.ndarray] = {}

    @property
    def count(self) -> int:
        return int(self.before[-1])

    def of(self, names: np.ndarray) -> np.ndarray:
        """Numbers of finished synapses; uint64, from 1 on."""
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
class ResolveStage(Stage):
    """Tell the members of every group of a level what became of their open components.

    Attributes
    ----------
    merged : Path
        Folder of this level's merge records.
    above : Path or None
        Folder of the next level's resolve records; None at the top.
    """

    merged: Path
    above: Path | None

    job_cost = 2**18

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.folder.name.replace("-", " ")

    def compute(self, index: Index, loaded: Any, given: Any) -> dict[str, np.ndarray]:
        record = read_record(self.merged, index)
        told = read_record(self.above, parent(index)) if self.above is not None else None
        result: dict[str, np.ndarray] = {}
        for kind in KINDS:
            new = record[f"new.{kind}"]
            if told is not None:
                new = translate(new, told[f"old.{kind}"], told[f"new.{kind}"])
            result |= {f"old.{kind}": record[f"old.{kind}"], f"new.{kind}": new}
        return result


def read_links(folder: Path, index: Index) -> Links:
    """What a `ResolveStage` tells."""
    record = read_record(folder, index)
    return Links(
        {kind: record[f"old.{kind}"] for kind in KINDS},
        {kind: record[f"new.{kind}"] for kind in KINDS},
    )
