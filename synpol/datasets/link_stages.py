"""Two stages that make labels from links: ``neurons`` looks up neurons, ``sides`` makes the sides.

A synapse is made from its own box, whatever block it lies in, so blocks of any shape give the same
labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from synpol.blockwise.grid import BlockGrid
from synpol.blockwise.records import Index, write_record
from synpol.blockwise.stage import FillStage, VoxelStage
from synpol.datasets.link_sides import SideRule, Site, sides_of
from synpol.files import whole_file
from synpol.images.image import open_image, shifted

if TYPE_CHECKING:
    import zarr

    from synpol.config import ImageSource


@dataclass(frozen=True)
class Volume:
    """A label volume that covers the image, or None.

    Attributes
    ----------
    source : str or ImageSource
        The volume.
    begin : (int, int, int)
        Position of the image's first voxel in it, voxels.
    """

    source: str | ImageSource
    begin: Index

    def opened(self) -> zarr.Array:
        """Open its array."""
        return open_image(self.source, channels=0).array

    def read(self, array: zarr.Array, box: tuple[slice, ...]) -> np.ndarray:
        """Read a box of voxels of the image."""
        return np.asarray(array[shifted(box, self.begin)])


@dataclass(frozen=True)
class Table:
    """Links in voxels of the image, kept as files that workers map into memory.

    Attributes
    ----------
    folder : Path
        Folder of the files, one for each column.
    """

    folder: Path

    def keep(self, **columns: np.ndarray) -> None:
        """Write columns."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, values in columns.items():
            with whole_file(self.folder / f"{name}.npy") as temporary, open(temporary, "wb") as f:
                np.save(f, values)

    def column(self, name: str) -> np.ndarray:
        """Map a column into memory."""
        return np.asarray(np.load(self.folder / f"{name}.npy", mmap_mode="r"))


@dataclass(frozen=True)
class FoundNeurons:
    """Record of a block: the neurons at the points in it.

    Attributes
    ----------
    point : (n,) int64
        Rows of the points.
    neuron : (n,) uint64
        Neuron at each; 0 where there is none.
    """

    point: np.ndarray
    neuron: np.ndarray


@dataclass(frozen=True)
class NeuronsStage(VoxelStage["zarr.Array", None, FoundNeurons]):
    """Look up the neurons at points.

    Attributes
    ----------
    neurons : Volume
        The neurons.
    points : Table
        Columns ``voxel`` (n, 3), sorted by block, and ``first``: the first row of each block.
    """

    neurons: Volume
    points: Table

    name = "neurons"
    version = 1

    def open(self) -> zarr.Array:
        return self.neurons.opened()

    def compute(self, index: Index, opened: zarr.Array, given: None) -> FoundNeurons:
        row = rows_of(self.points, self.blocks, index)
        voxel = self.points.column("voxel")[row]
        if not len(row):
            return FoundNeurons(row, np.zeros(0, np.uint64))
        begin, end = voxel.min(axis=0), voxel.max(axis=0) + 1
        box = tuple(slice(int(b), int(e)) for b, e in zip(begin, end, strict=True))
        found = self.neurons.read(opened, box)[tuple((voxel - begin).T)]
        return FoundNeurons(row, found.astype(np.uint64))


@dataclass(frozen=True)
class OpenVolumes:
    """Arrays of the stage ``sides``, open."""

    output: zarr.Array
    neurons: zarr.Array | None
    clefts: zarr.Array | None


@dataclass(frozen=True)
class MadeSides:
    """Sides of one block, and which links of the synapses that belong to it have none.

    Attributes
    ----------
    labels : (z, y, x) uint64 array
        Labels of the block.
    apart : (n,) int64
        Rows of links without contact.
    """

    labels: np.ndarray
    apart: np.ndarray


@dataclass(frozen=True)
class SidesRecord:
    """Record of a block.

    Attributes
    ----------
    apart : (n,) int64
        Rows of links without contact.
    sizes : (n,) int64
        Bytes of each file of the block; see `synpol.blockwise.records.Written`.
    """

    apart: np.ndarray
    sizes: np.ndarray


@dataclass(frozen=True)
class SidesStage(FillStage[OpenVolumes, None, MadeSides]):
    """Make the sides of the synapses in every block.

    Attributes
    ----------
    output : str
        Array of the labels.
    neurons, clefts : Volume or None
        Neurons and clefts on the voxels of the image.
    rule : SideRule
        How far sides reach.
    offset, voxel_size : (float, float, float)
        Corner of the image and size of its voxels, nm.
    links : Table
        Columns of links that are made, sorted by synapse: ``pre`` and ``post`` (nm), ``pre_id``,
        ``post_id``, ``number``.
    near : Table
        Columns ``row``: first link of the synapses that come near each block, and ``first``.
    """

    output: str
    neurons: Volume | None
    clefts: Volume | None
    rule: SideRule
    offset: tuple[float, float, float]
    voxel_size: tuple[float, float, float]
    links: Table
    near: Table

    name = "sides"
    version = 1
    voxel_cost = 10

    def open(self) -> OpenVolumes:
        return OpenVolumes(
            output=open_image(self.output, mode="r+").array,
            neurons=None if self.neurons is None else self.neurons.opened(),
            clefts=None if self.clefts is None else self.clefts.opened(),
        )

    def compute(self, index: Index, opened: OpenVolumes, given: None) -> MadeSides:
        begin, end = (np.array(b) for b in self.blocks.bounds(index))
        labels = np.zeros(self.blocks.shape_of(index), np.uint64)
        apart = []
        for rows, site in self._sites(index):
            low, high = self.box_of(site)
            if (low >= end).any() or (high <= begin).any():
                continue
            box = tuple(slice(int(b), int(e)) for b, e in zip(low, high, strict=True))
            made, there = sides_of(
                site,
                self.rule,
                tuple(self.offset + low * np.array(self.voxel_size)),
                self.voxel_size,
                tuple(high - low),
                _read(self.neurons, opened.neurons, box),
                _read(self.clefts, opened.clefts, box),
            )
            first, last = np.maximum(low, begin), np.minimum(high, end)
            inner = tuple(slice(a, b) for a, b in zip(first - low, last - low, strict=True))
            outer = tuple(slice(a, b) for a, b in zip(first - begin, last - begin, strict=True))
            part = labels[outer]
            part[part == 0] = made[inner][part == 0]  # of two synapses the first one keeps a voxel
            if tuple(low // self.blocks.block) == index:
                apart.append(rows[~there])
        rows = np.concatenate(apart) if apart else np.zeros(0, np.int64)
        return MadeSides(labels, rows)

    def write(self, index: Index, opened: OpenVolumes, result: MadeSides) -> None:
        values = result.labels if result.labels.any() else None
        sizes = self.fill(index, opened.output, values)
        write_record(self.folder, index, SidesRecord(result.apart, sizes))

    @property
    def filled(self) -> str:
        return self.output

    def box_of(self, site: Site) -> tuple[np.ndarray, np.ndarray]:
        """Return the first voxel of the box of a synapse and one past its last, in the image."""
        return box_of(
            site.middle.min(axis=0),
            site.middle.max(axis=0),
            self.rule,
            np.array(self.offset),
            np.array(self.voxel_size),
            np.array(self.blocks.shape),
        )

    def _sites(self, index: Index) -> Iterator[tuple[np.ndarray, Site]]:
        number = self.links.column("number")
        columns = {n: self.links.column(n) for n in ("pre", "post", "pre_id", "post_id")}
        for row in self.near.column("row")[rows_of(self.near, self.blocks, index)]:
            last = int(np.searchsorted(number, number[row], side="right"))
            rows = np.arange(row, last)
            yield rows, Site(int(number[row]), **{n: v[row:last] for n, v in columns.items()})


def box_of(
    low: np.ndarray,
    high: np.ndarray,
    rule: SideRule,
    offset: np.ndarray,
    voxel_size: np.ndarray,
    shape: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the box around middles of links (nm), in voxels of the image and inside it."""
    first = np.floor((low - rule.extent - offset) / voxel_size).astype(np.int64)
    last = np.ceil((high + rule.extent - offset) / voxel_size).astype(np.int64)
    return np.clip(first, 0, shape - 1), np.clip(last, 1, shape)


def rows_of(table: Table, blocks: BlockGrid, index: Index) -> np.ndarray:
    """Return the rows of a table that belong to a block."""
    first = table.column("first")
    at = int(np.ravel_multi_index(index, blocks.grid))
    return np.arange(int(first[at]), int(first[at + 1]))


def by_block(at: np.ndarray, blocks: BlockGrid) -> tuple[np.ndarray, np.ndarray]:
    """Sort by block; return the order, and the first of each block with one more at the end.

    Parameters
    ----------
    at : (n, 3) int64
        Index of the block of each.
    blocks : BlockGrid
        The blocks.
    """
    flat = np.ravel_multi_index(tuple(at.T), blocks.grid) if len(at) else np.zeros(0, np.int64)
    order = np.argsort(flat, kind="stable")
    return order, np.searchsorted(flat[order], np.arange(int(np.prod(blocks.grid)) + 1))


def _read(
    volume: Volume | None, array: zarr.Array | None, box: tuple[slice, ...]
) -> np.ndarray | None:
    return None if volume is None or array is None else volume.read(array, box)
