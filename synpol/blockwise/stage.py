"""What a blockwise stage is.

A stage is a grid of blocks and three functions of one block: read what it needs, compute, write the
result and then the block's record. The records say which blocks are done: a stage has succeeded
when every record is there, whatever anybody reported.

A block may run twice at once (an orphan of a killed driver, a node cut off from the network), so
each writes one region and one record, both by content alone.
"""

from __future__ import annotations

import itertools
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from synpol.blockwise.grid import BlockGrid
from synpol.blockwise.records import Index, done_mask, write_record


@dataclass(frozen=True)
class Stage(ABC):
    """A step over all blocks.

    Attributes
    ----------
    folder : Path
        Of its records.
    grid : (int, int, int)
        Blocks along z, y, x.
    """

    folder: Path
    grid: Index

    #: shown to people
    name: ClassVar[str] = "stage"
    #: what a block costs, in voxels that could be labelled instead
    job_cost: ClassVar[int] = 1
    #: blocks that a process has in hand at once: one is computed while another is read or written
    lanes: ClassVar[int] = 1
    #: whether even one block belongs on a cluster's workers, where there is a cluster
    for_workers: ClassVar[bool] = False

    @property
    def cost(self) -> int:
        """What a block costs, in voxels that could be labelled instead; decides where it runs."""
        return self.job_cost

    @property
    def block_voxels(self) -> int:
        """Voxels of a block, for the progress; 0 where a job is not about voxels."""
        return 0

    def start(self) -> Any:
        """What a process loads once; handed to the functions of a block."""
        return None

    def read(self, index: Index, loaded: Any) -> Any:
        """Read what `compute` needs; runs beside the computing of another block."""
        return None

    @abstractmethod
    def compute(self, index: Index, loaded: Any, given: Any) -> Any:
        """Make the result of a block from what was read; one block at a time in a process."""

    def write(self, index: Index, loaded: Any, result: Any) -> None:
        """Write the result, and the record last; by default the result is the record."""
        write_record(self.folder, index, result)

    def done(self) -> np.ndarray:
        """Which blocks are done; bool, of the shape of the grid."""
        return done_mask(self.folder, self.grid)

    @property
    def count(self) -> int:
        """How many blocks there are."""
        return int(np.prod(self.grid))


class VoxelStage(Stage):
    """A step over the blocks of a volume; what a block costs grows with its voxels."""

    blocks: BlockGrid
    #: what a voxel costs, compared with labelling it
    voxel_cost: ClassVar[float] = 1

    @property
    def block_voxels(self) -> int:
        return int(np.prod(self.blocks.block))

    @property
    def cost(self) -> int:
        return int(self.block_voxels * self.voxel_cost)


class ArrayStage(VoxelStage):
    """A step that writes its blocks into an array, the first of what `start` returns."""

    def write(self, index: Index, loaded: Any, result: np.ndarray | None) -> None:
        """Write a block (None: all zeros), then its record."""
        from synpol.images.writing import write_block

        write_block(loaded[0], self.blocks.slices(index), result)
        write_record(self.folder, index, {})


@dataclass(frozen=True)
class BlockTime:
    """Where the time of one block went, in seconds.

    Attributes
    ----------
    index : (int, int, int)
    total : float
        From the first read to the record, less the wait for another block that was computed.
    computing : float
    idle : float
        Nothing was computed in this process before this block was: it waited for data.
    """

    index: Index
    total: float
    computing: float
    idle: float


class Turn:
    """Lets one block be computed at a time in a process, and sees when none is."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free_since = time.monotonic()

    def run(self, stage: Stage, index: Index, loaded: Any) -> BlockTime:
        """Do one block."""
        started = time.monotonic()
        given = stage.read(index, loaded)
        arrived = time.monotonic()
        with self._lock:
            begun = time.monotonic()
            idle = begun - self._free_since
            try:
                result = stage.compute(index, loaded, given)
            finally:
                ended = self._free_since = time.monotonic()
        stage.write(index, loaded, result)
        total = time.monotonic() - started - (begun - arrived)
        return BlockTime(index, total, ended - begun, idle)


def blocks_of(grid: Index) -> Iterator[Index]:
    """Every index of a grid in C order."""
    return itertools.product(*(range(n) for n in grid))  # type: ignore[return-value]
