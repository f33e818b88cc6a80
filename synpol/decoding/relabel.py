"""Stage ``relabel``: from the states of a block's voxels to its instances."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from synpol.blockwise.grid import BlockGrid, parent
from synpol.blockwise.records import Index, read_record
from synpol.blockwise.stage import ArrayStage
from synpol.decoding.fragments import KEPT, Links
from synpol.decoding.label import voxels_of
from synpol.decoding.number import NumberStage, read_links
from synpol.polarity import side_labels

VERSION = 2


@dataclass(frozen=True)
class RelabelStage(ArrayStage):
    """Write the instances of every block.

    Attributes
    ----------
    instances : str
        Path of the array to write.
    blocks : BlockGrid
    labelled, dilated : Path
        Records of the blocks: their voxels, and the names of what these belong to.
    told : Path or None
        What the groups of level 1 tell their blocks; None for a single block.
    numbers : NumberStage
    sides, semantic : bool
    """

    instances: str
    blocks: BlockGrid
    labelled: Path
    dilated: Path
    told: Path | None
    numbers: NumberStage
    sides: bool
    semantic: bool

    name = "relabel"
    voxel_cost = 0.5

    def start(self) -> Any:
        from synpol.images.image import open_image

        return (
            open_image(self.instances, channels=0, mode="r+").array,
            self.numbers.numbering(),
        )

    def compute(self, index: Index, loaded: Any, given: Any) -> np.ndarray | None:
        instances, numbering = loaded
        record = read_record(self.dilated, index)
        synapse, pre, post = (record[f"state.{kind}"] for kind in ("synapse", "pre", "post"))
        if len(synapse):
            if self.told is not None:
                links: Links = read_links(self.told, parent(index))
                synapse, pre, post = (
                    links.of(kind, names)
                    for kind, names in (("synapse", synapse), ("pre", pre), ("post", post))
                )
            label = self._label(numbering.of(synapse), pre == KEPT, post == KEPT)
            if label.any():
                block = np.zeros(self.blocks.shape_of(index), instances.dtype)
                runs = read_record(self.labelled, index)
                block.ravel()[voxels_of(runs)] = np.repeat(
                    label.astype(block.dtype)[runs["run.state"]], runs["run.length"]
                )
                return block
        return None

    def _label(self, number: np.ndarray, pre: np.ndarray, post: np.ndarray) -> np.ndarray:
        if self.semantic:
            return side_labels(np.uint64(1), pre, post)
        if not self.sides:
            return np.where(pre, number, np.uint64(0))
        return side_labels(number, pre, post)
