"""Say what a blockwise stage is: a grid of blocks, and four functions.

`Stage.open` opens what a process needs once. For each block, `Stage.read` reads its input,
`Stage.compute` makes the result, and `Stage.write` stores the result and then the block's record.
The records say which blocks are done: a stage has succeeded when every block has its record,
whatever daisy and the workers have reported.

A block may run twice at once (by an orphan of a killed driver, or by a node that was cut off from
the network). So each block writes one region and one record, and both depend on its content alone.
"""

from __future__ import annotations

import itertools
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

from synpol.blockwise.grid import BlockGrid, index_of
from synpol.blockwise.records import (
    DamagedRecord,
    Index,
    Written,
    done_mask,
    read_arrays,
    read_record,
    record_path,
    write_record,
)
from synpol.files import is_url

if TYPE_CHECKING:  # zarr takes a second to import, and stages without arrays do without it
    import zarr

    from synpol.images.sparse import SparseBlock

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Stage[Opened, Given, Result](ABC):
    """Do one step of a job on every block.

    A stage is pickled and sent to workers, so its fields are paths and numbers, never arrays.
    ``Opened`` is the type of what a process opens once, ``Given`` of the input of one block, and
    ``Result`` of its result.

    Attributes
    ----------
    folder : Path
        Folder of the records. `synpol.blockwise.run_stage` gives one to a stage that has none.
    grid : (int, int, int)
        Number of blocks along z, y, x.
    """

    folder: Path = Path()
    grid: Index

    #: name of the stage, for people
    name: ClassVar[str] = "stage"
    #: what a job is, what it reads, and what it leaves, for the docs
    job: ClassVar[str] = "a block"
    reads: ClassVar[str] = ""
    leaves: ClassVar[str] = ""
    #: number of the code that makes the result: raised when a change of code changes the result
    version: ClassVar[int] = 1
    #: work of one block, as a number of voxels that are read and gone over in the same time
    job_cost: ClassVar[int] = 1
    #: estimated time of one block of a job that is not about voxels (docs/decoding_measured.md)
    seconds_per_job: ClassVar[float] = 0
    #: number of blocks that a process holds at once: one is computed, others are read or written
    prefetch: ClassVar[int] = 1
    #: whether even a single block is given to a worker of a cluster, where there is a cluster
    for_workers: ClassVar[bool] = False

    @property
    def cost(self) -> int:
        """Work of one block, as a number of voxels; decides where the stage runs."""
        return self.job_cost

    @property
    def block_voxels(self) -> int:
        """Number of voxels in a block, for the progress bar; 0 where a job is not about voxels."""
        return 0

    @property
    def estimated_seconds(self) -> float:
        """Estimated time of all blocks for one worker, in seconds."""
        return self.count * self.seconds_per_job

    @property
    def bytes_read(self) -> int:
        """Number of bytes that the stage reads from arrays, before compression."""
        return 0

    @property
    def bytes_written(self) -> int:
        """Number of bytes that the stage writes into arrays, before compression."""
        return 0

    def open(self) -> Opened:
        """Open what this process needs for all of its blocks."""
        return cast(Opened, None)

    def read(self, index: Index, opened: Opened) -> Given:
        """Read the input of one block; runs while another block is computed."""
        return cast(Given, None)

    @abstractmethod
    def compute(self, index: Index, opened: Opened, given: Given) -> Result:
        """Make the result of one block; a process computes one block at a time."""

    def write(self, index: Index, opened: Opened, result: Result) -> None:
        """Store the result, and the record last; by default the result is the record."""
        write_record(self.folder, index, result)

    def records[Record](self, kind: type[Record]) -> Iterator[Record]:
        """Read the record of every block, in C order.

        Parameters
        ----------
        kind : type
            The dataclass that was written, or one with some of its fields.

        Raises
        ------
        DamagedRecord
            A record cannot be read; it has been set aside.
        """
        return (read_record(self.folder, index, kind) for index in blocks_of(self.grid))

    def done(self) -> np.ndarray:
        """Tell which blocks are done; a bool array of the shape of the grid."""
        return done_mask(self.folder, self.grid)

    @property
    def count(self) -> int:
        """Number of blocks."""
        return int(np.prod(self.grid))


#: a stage of any types, as the driver sees it
type AnyStage = Stage[Any, Any, Any]


@dataclass(frozen=True, kw_only=True)
class VoxelStage[Opened, Given, Result](Stage[Opened, Given, Result]):
    """Do one step on the blocks of a volume; the work of a block grows with its voxels.

    Attributes
    ----------
    blocks : BlockGrid
        Blocks of the volume; `grid` follows from them.
    """

    blocks: BlockGrid
    grid: Index = field(init=False)

    #: work of one voxel; reading one, and a few passes over it, is 1
    voxel_cost: ClassVar[float] = 1
    #: estimated time of one voxel (two cores, docs/decoding_measured.md)
    seconds_per_voxel: ClassVar[float] = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "grid", self.blocks.grid)

    @property
    def estimated_seconds(self) -> float:
        return float(np.prod(self.blocks.shape)) * self.seconds_per_voxel

    @property
    def block_voxels(self) -> int:
        return int(np.prod(self.blocks.block))

    @property
    def cost(self) -> int:
        return int(self.block_voxels * self.voxel_cost)


class FillStage[Opened, Given, Result](VoxelStage[Opened, Given, Result]):
    """Fill an array block by block.

    The record of a block says how large its files are. A block whose files are gone, cut or longer
    than that does not count as done.
    """

    @property
    @abstractmethod
    def filled(self) -> str:
        """Path or URL of the array that the stage fills."""

    def fill(
        self, index: Index, array: zarr.Array, values: np.ndarray | SparseBlock | None
    ) -> np.ndarray:
        """Write a block of the array to the disk; return the sizes of its files for the record.

        Parameters
        ----------
        index : (int, int, int)
            Index of the block.
        array : zarr.Array
            Array that the stage fills, open.
        values : array, SparseBlock or None
            Voxels of the block; None: all zeros.

        Returns
        -------
        (n,) int64 array
            See `synpol.blockwise.records.Written`; empty where the sizes are not known.
        """
        from synpol.images.blocks import stored_sizes, write_block

        where = self.blocks.slices(index)
        write_block(array, where, values)
        sizes = stored_sizes(array, where)
        return np.zeros(0, np.int64) if sizes is None else sizes

    def done(self) -> np.ndarray:
        """Tell which blocks are done; removes the record of a block whose files have changed."""
        from synpol.images.blocks import stored_sizes
        from synpol.images.nodes import opened_array

        done = super().done()
        array = opened_array(self.filled) if done.any() and not is_url(self.filled) else None
        if array is None:
            return done
        changed = 0
        for index in map(index_of, np.argwhere(done)):
            try:
                noted = read_arrays(self.folder, index).get("sizes")
            except (DamagedRecord, FileNotFoundError):
                done[index] = False
                continue
            if noted is None or not noted.size:  # of a run that noted none
                continue
            found = stored_sizes(array, self.blocks.slices(index))
            if found is not None and not np.array_equal(found, noted):
                record_path(self.folder, index).unlink(missing_ok=True)
                done[index] = False
                changed += 1
        if changed:
            _log.warning(
                "%s: the files of %d finished blocks are gone or changed; doing these blocks again",
                *(self.filled, changed),
            )
        return done


class ArrayStage[Opened, Given](FillStage[Opened, Given, "np.ndarray | SparseBlock | None"]):
    """Fill an array block by block; a result of None is a block of zeros."""

    @abstractmethod
    def target(self, opened: Opened) -> zarr.Array:
        """Return the array that the stage fills, open."""

    def write(self, index: Index, opened: Opened, result: np.ndarray | SparseBlock | None) -> None:
        """Write a block of the array, then its record."""
        sizes = self.fill(index, self.target(opened), result)
        write_record(self.folder, index, Written(sizes))


def blocks_of(grid: Index) -> Iterator[Index]:
    """Return every index of a grid, in C order."""
    return itertools.product(*(range(n) for n in grid))  # type: ignore[return-value]
