"""Stages ``parts`` and ``anchors``: what one neuron holds of one side of one synapse.

Such a *part* has a number of voxels, faces that it shares with parts of the other side, and an
anchor: its voxel that lies nearest to the mean place of all its voxels. Sums of whole numbers are
kept of each block, so the result does not depend on the blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import zarr

from synpol.blockwise.records import Index, read_record
from synpol.blockwise.stage import VoxelStage
from synpol.connectivity.membrane import nearest_neurons, reach_of
from synpol.connectivity.rows import find_rows, first_of_each, grouped, totals
from synpol.errors import InputError
from synpol.images.image import open_image
from synpol.images.regions import read_region
from synpol.polarity import is_pre, synapse_of

if TYPE_CHECKING:
    from synpol.config import ImageSource


@dataclass(frozen=True)
class Volumes:
    """Open arrays, (z, y, x).

    Attributes
    ----------
    instances, segmentation : zarr.Array
        Sides of synapses, and neurons.
    """

    instances: zarr.Array
    segmentation: zarr.Array


@dataclass(frozen=True)
class Region:
    """Labels of a block, and of the layers around it that its result needs.

    Attributes
    ----------
    labels : (z, y, x) array of integers
        Sides of synapses; 0 beyond the volume.
    neurons : (z, y, x) array of integers or None
        Neurons of the same voxels and of those within reach of them; None without any side.
    """

    labels: np.ndarray
    neurons: np.ndarray | None


@dataclass(frozen=True)
class Voxels:
    """Voxels of sides, a row each.

    Attributes
    ----------
    flat : (n,) int64
        Place in the labels of the region, in C order; ascending.
    at : (n, 3) int64
        The same place as z, y, x.
    label, neuron : (n,) uint64
        Side, and the neuron that the voxel lies in; 0 for none.
    """

    flat: np.ndarray
    at: np.ndarray
    label: np.ndarray
    neuron: np.ndarray


@dataclass
class PartRecord:
    """Parts in one block and the faces between them, a row each.

    Attributes
    ----------
    label, neuron : (n,) uint64
        Side and neuron of each part; 0 for voxels in no neuron.
    voxels : (n,) int64
        Number of voxels.
    sums : (n, 3) int64
        Sums of their z, y, x indices in the volume.
    synapse, pre, post : (k,) uint64
        Synapse, and the neurons of its pre and of its post part that touch.
    faces : (k, 3) int64
        Number of voxel faces between both, across z, y and x.
    """

    label: np.ndarray
    neuron: np.ndarray
    voxels: np.ndarray
    sums: np.ndarray
    synapse: np.ndarray
    pre: np.ndarray
    post: np.ndarray
    faces: np.ndarray


@dataclass
class _Labels:
    """Sides of the parts in one block, from its `PartRecord`."""

    label: np.ndarray


@dataclass
class AnchorRecord:
    """Nearest voxel of each part to its mean place, among the voxels of one block.

    Attributes
    ----------
    part : (n,) int64
        Row of the part in the table of all parts.
    distance : (n,) float64
        Measure of the distance, comparable within a part.
    voxel : (n,) int64
        Index of the voxel in the volume, in C order.
    """

    part: np.ndarray
    distance: np.ndarray
    voxel: np.ndarray


@dataclass(frozen=True, kw_only=True)
class NeuronStage[Result](VoxelStage[Volumes, Region, Result]):
    """Read sides and neurons of every block.

    Attributes
    ----------
    instances, segmentation : str or ImageSource
        The label arrays.
    begin : (int, int, int)
        Position of the first voxel of the instances in the segmentation, in their voxels.
    multiple : (int, int, int)
        Number of voxels of the instances along each axis of a voxel of the segmentation.
    size : (float, float, float)
        Voxel size of the instances, nm.
    max_distance : float
        Distance within which a voxel in no neuron counts to the nearest one, nm; 0: it does not.
    """

    instances: str | ImageSource
    segmentation: str | ImageSource
    begin: Index
    multiple: Index
    size: tuple[float, float, float]
    max_distance: float = 0.0

    def open(self) -> Volumes:
        return Volumes(
            instances=open_image(self.instances, channels=0).array,
            segmentation=open_image(self.segmentation, channels=0).array,
        )

    def _read(self, index: Index, opened: Volumes, more: int) -> Region:
        """Read a block with `more` layers of voxels at its high faces."""
        begin, end = self.blocks.bounds(index)
        labels = read_region(
            opened.instances,
            [slice(b, e + more) for b, e in zip(begin, end, strict=True)],
            self.instances,
        )
        if not labels.any():
            return Region(labels, None)
        axes = zip(begin, end, self.begin, reach_of(self.max_distance, self.size), strict=True)
        where = [slice(b + first - r, e + more + first + r) for b, e, first, r in axes]
        return Region(
            labels, read_region(opened.segmentation, where, self.segmentation, self.multiple)
        )

    def _voxels(self, region: Region) -> Voxels:
        """Find the voxels of sides in a region with some, and their neurons.

        Raises
        ------
        InputError
            A label or a neuron is below 0.
        """
        labels, neurons = region.labels, region.neurons
        assert neurons is not None
        flat = np.flatnonzero(labels)
        at = np.stack(np.unravel_index(flat, labels.shape), axis=1)
        inside = at + reach_of(self.max_distance, self.size)
        neuron = neurons[tuple(inside.T)]
        if self.max_distance:
            none = np.flatnonzero(neuron == 0)
            neuron[none] = nearest_neurons(neurons, inside[none], self.size, self.max_distance)
        label = labels.reshape(-1)[flat]
        for name, values in (("the instances", label), ("the segmentation", neuron)):
            if values.dtype.kind == "i" and values.min() < 0:
                raise InputError(f"{name} hold the label {values.min()}; labels are 0 or above")
        return Voxels(flat, at, label.astype(np.uint64), neuron.astype(np.uint64))


@dataclass(frozen=True, kw_only=True)
class PartStage(NeuronStage[PartRecord]):
    """Count the voxels of the parts in every block, and the faces between them."""

    name = "parts"
    version = 1

    def read(self, index: Index, opened: Volumes) -> Region:
        return self._read(index, opened, more=1)

    def compute(self, index: Index, opened: Volumes, given: Region) -> PartRecord:
        if given.neurons is None:
            ids, numbers = np.zeros(0, np.uint64), np.zeros((0, 3), np.int64)
            return PartRecord(ids, ids, numbers[:, 0], numbers, ids, ids, ids, numbers)
        voxels = self._voxels(given)
        own = np.flatnonzero((voxels.at < self.blocks.shape_of(index)).all(axis=1))
        begin = np.array(self.blocks.bounds(index)[0], np.int64)
        (label, neuron), into = grouped([voxels.label[own], voxels.neuron[own]])
        count = np.bincount(into, minlength=len(label))
        sums = totals(voxels.at[own], into, len(label)) + count[:, None] * begin
        return PartRecord(label, neuron, count, sums, *_faces(voxels, own, given.labels.shape))


def _faces(
    voxels: Voxels, own: np.ndarray, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Count the faces between both sides of a synapse behind the voxels `own`, by their neurons."""
    first, second, axes = [], [], []
    for axis in range(3):
        wanted = voxels.flat[own] + int(np.prod(shape[axis + 1 :]))
        next_one = np.minimum(np.searchsorted(voxels.flat, wanted), len(voxels.flat) - 1)
        a, b = voxels.label[own], voxels.label[next_one]
        join = (voxels.flat[next_one] == wanted) & (a != b) & (synapse_of(a) == synapse_of(b))
        first.append(own[join])
        second.append(next_one[join])
        axes.append(np.full(np.count_nonzero(join), axis))
    a, b = np.concatenate(first), np.concatenate(second)
    forward = is_pre(voxels.label[a])
    pre, post = np.where(forward, a, b), np.where(forward, b, a)
    columns, into = grouped([synapse_of(voxels.label[a]), voxels.neuron[pre], voxels.neuron[post]])
    faces = np.zeros((len(columns[0]), 3), np.int64)
    np.add.at(faces, (into, np.concatenate(axes)), 1)
    return columns[0], columns[1], columns[2], faces


@dataclass(frozen=True, kw_only=True)
class AnchorStage(NeuronStage[AnchorRecord]):
    """Find the voxel of each part that lies nearest to its mean place, in every block.

    Attributes
    ----------
    parts : Path
        Folder of the records of `PartStage`.
    table : Path
        Folder of the table of all parts; see `open_parts`.
    """

    parts: Path
    table: Path

    name = "anchors"
    version = 1

    def read(self, index: Index, opened: Volumes) -> Region:
        if not len(read_record(self.parts, index, _Labels).label):
            return Region(np.zeros((0, 0, 0), np.uint64), None)
        return self._read(index, opened, more=0)

    def compute(self, index: Index, opened: Volumes, given: Region) -> AnchorRecord:
        if given.neurons is None:
            none = np.zeros(0, np.int64)
            return AnchorRecord(none, none.astype(float), none)
        voxels, parts = self._voxels(given), open_parts(self.table)
        (label, neuron), into = grouped([voxels.label, voxels.neuron])
        row = find_rows(parts["label"], parts["neuron"], label, neuron)
        at = voxels.at + np.array(self.blocks.bounds(index)[0], np.int64)
        steps = at * parts["voxels"][row][into][:, None] - parts["sums"][row][into]
        distance = ((steps * np.array(self.size)) ** 2).sum(axis=1)
        flat = np.ravel_multi_index(tuple(at.T), self.blocks.shape)
        best = first_of_each(into, distance, flat)
        return AnchorRecord(row, distance[best], flat[best])


#: columns of the table of all parts, sorted by label and neuron
_COLUMNS = {"label": np.uint64, "neuron": np.uint64, "voxels": np.int64, "sums": np.int64}


def open_parts(folder: Path) -> dict[str, np.ndarray]:
    """Open the table of all parts, column by column, without reading it.

    The columns are ``label``, ``neuron``, ``voxels`` and ``sums`` (three numbers a row), as in
    `PartRecord`; the rows are sorted by label and neuron.
    """
    columns = {}
    for name, kind in _COLUMNS.items():
        path = folder / f"{name}.column"
        column: np.ndarray = (
            np.memmap(path, kind, "r") if path.stat().st_size else np.zeros(0, kind)
        )
        columns[name] = column.reshape(-1, 3) if name == "sums" else column
    return columns


def append_parts(folder: Path, label: np.ndarray, neuron: np.ndarray, sums: np.ndarray) -> None:
    """Write more rows to the table of all parts; `sums` has the voxels and the three sums."""
    columns = (label, neuron, sums[:, 0], sums[:, 1:])
    for (name, kind), column in zip(_COLUMNS.items(), columns, strict=True):
        with (folder / f"{name}.column").open("ab") as file:
            file.write(np.ascontiguousarray(column, kind).tobytes())
