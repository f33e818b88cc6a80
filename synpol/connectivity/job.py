"""Find what neurons hold of each side of every synapse, block by block.

Memory does not grow with the volume, and little with the number of synapses: parts, contacts and
anchors of all blocks are split by ranges of synapses, which are done one after the other.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from synpol.blockwise.driver import Driver
from synpol.blockwise.grid import BlockGrid
from synpol.blockwise.records import work_folder
from synpol.connectivity.partners import Parts, largest_partners
from synpol.connectivity.parts import (
    AnchorRecord,
    AnchorStage,
    NeuronStage,
    PartRecord,
    PartStage,
    append_parts,
    open_parts,
)
from synpol.connectivity.rows import Buckets, find_rows, first_of_each, grouped, totals
from synpol.errors import InputError
from synpol.images.identity import hash_of, identity_of
from synpol.images.image import Image
from synpol.images.writing import check_writable
from synpol.polarity import post_label, pre_label, synapse_of

if TYPE_CHECKING:
    from synpol.config import Workers

_log = logging.getLogger(__name__)
#: number of synapses whose parts are in memory at once
SYNAPSES_AT_ONCE = 2**18
#: number of blocks whose synapses are listed before repeated ones are removed
_RECORDS_AT_ONCE = 1000


@dataclass(frozen=True)
class _Gathered:
    """Parts of all blocks on disk, split by ranges of synapses.

    Attributes
    ----------
    ends : list of int
        Number of rows of the table of all parts up to the end of each range.
    contacts : Buckets
        Synapse, pre neuron, post neuron and faces across z, y, x.
    """

    ends: list[int]
    contacts: Buckets


def partners_blockwise(
    instances: Image,
    segmentation: Image,
    *,
    max_distance: float = 0.0,
    partly: bool = False,
    block_shape: Sequence[int],
    work_dir: str | os.PathLike[str],
    num_workers: int = 1,
    workers: Workers | None = None,
) -> pa.Table:
    """Find the neuron on each side of every synapse, in volumes of any size.

    Parameters
    ----------
    instances : Image
        2n-1 on the pre side of synapse n, 2n on its post side, 0 elsewhere.
    segmentation : Image
        Labels of neurons, 0 between them. It covers the instances; its voxel size is a whole
        multiple of theirs along each axis.
    max_distance : float
        Distance within which a voxel in no neuron counts to the nearest one, nm; 0: it does not.
    partly : bool
        Whether the segmentation may cover a part of the instances; beyond it there is no neuron,
        and a warning tells the share.
    block_shape, work_dir, num_workers, workers
        As in `synpol.evaluation.overlaps.evaluate_blockwise`.

    Returns
    -------
    pyarrow.Table
        A row for each synapse; see `synpol.connectivity.partners.partners_of`.

    Raises
    ------
    InputError
        The segmentation does not cover the instances, the voxel sizes do not fit, or a volume does
        not hold labels.
    """
    with parts_blockwise(
        instances,
        segmentation,
        max_distance=max_distance,
        partly=partly,
        block_shape=block_shape,
        work_dir=work_dir,
        num_workers=num_workers,
        workers=workers,
    ) as ranges:
        return pa.concat_tables(largest_partners(parts) for parts in ranges)


def tell_share(instances: Image, segmentation: Image) -> None:
    """Say how much of the instances a segmentation covers, where that is not all.

    Raises
    ------
    InputError
        It covers a part, and nothing says which.
    """
    what = "the segmentation"
    begin = segmentation.place_of(instances, what, coarser=True, partly=True)
    multiple = segmentation.multiple_of(instances, what)
    sides = zip(begin, instances.shape_vx, segmentation.shape_vx, multiple, strict=True)
    covered = [(min(b + n, m * f) - max(b, 0)) / n for b, n, m, f in sides]
    share = float(np.prod(covered))
    if share == 1:
        return
    if not segmentation.placed:
        raise InputError(
            f"{segmentation.path} covers a part of {instances.path}, and nothing says which. Say "
            "where its first voxel begins (corner, nm): "
            f"{{path: {segmentation.path}, offset: [z, y, x]}}"
        )
    _log.warning(
        "%s covers %.3g %% of %s; beyond it no neuron is known",
        segmentation.path,
        100 * share,
        instances.path,
    )


@contextmanager
def parts_blockwise(
    instances: Image,
    segmentation: Image,
    *,
    max_distance: float = 0.0,
    partly: bool = False,
    block_shape: Sequence[int],
    work_dir: str | os.PathLike[str],
    num_workers: int = 1,
    workers: Workers | None = None,
) -> Iterator[Iterator[Parts]]:
    """Find what neurons hold of each side of every synapse, in volumes of any size.

    An interrupted job continues where it stopped. A finished one is always done again, because
    labels may have been corrected in place. Parameters and errors are those of
    `partners_blockwise`.

    Yields
    ------
    iterator of Parts
        Parts of all synapses, range by range in the order of their numbers. They are read from
        files that are removed at the end.
    """
    if partly:
        tell_share(instances, segmentation)
    stage = _stage(instances, segmentation, max_distance, partly, block_shape)
    digest = hash_of(
        {
            "sources": [identity_of(image) for image in (instances, segmentation)],
            "begin": stage.begin,
            "block": stage.blocks.block,
            "distance": max_distance,
            "code": [PartStage.version, AnchorStage.version],
        }
    )
    work = work_folder("", work_dir)
    check_writable(work)
    folders = [work / f"{name}-{digest[:16]}" for name in ("parts", "anchors", "neurons")]
    what = f"neurons of {segmentation.path} at the synapses of {instances.path}"
    with Driver(work, what, num_workers, workers) as driver:
        stage = replace(stage, folder=folders[0])
        driver.run(stage)
        table = folders[2]
        gathered = _gather(stage, table)
        common = {f.name: getattr(stage, f.name) for f in fields(NeuronStage) if f.init}
        anchors = AnchorStage(**common | {"folder": folders[1]}, parts=folders[0], table=table)
        driver.run(anchors)
        nearest = Buckets(table, "anchors", np.array(gathered.ends[:-1], np.uint64), 3)
        for record in anchors.records(AnchorRecord):
            nearest.add(record.part, record.part, record.distance.view(np.uint64), record.voxel)
        yield (
            _parts(table, gathered, nearest, number, instances) for number in range(nearest.count)
        )
        for folder in folders:
            shutil.rmtree(folder)


def _stage(
    instances: Image,
    segmentation: Image,
    max_distance: float,
    partly: bool,
    block_shape: Sequence[int],
) -> PartStage:
    """Make the first stage, without its folder."""
    for image in (instances, segmentation):
        if image.array.dtype.kind not in "uib":
            raise InputError(f"{image.path} is {image.array.dtype}; labels are whole numbers")
    what = "the segmentation"
    z, y, x = (float(size) for size in instances.voxel_size_nm)
    return PartStage(
        instances=instances.source,
        segmentation=segmentation.source,
        begin=segmentation.place_of(instances, what, coarser=True, partly=partly),
        multiple=segmentation.multiple_of(instances, what),
        size=(z, y, x),
        max_distance=max_distance,
        blocks=BlockGrid.of(instances.shape_vx, block_shape),
    )


def _gather(stage: PartStage, table: Path) -> _Gathered:
    """Add up the parts and the contacts of all blocks, and keep them in files of a folder."""
    shutil.rmtree(table, ignore_errors=True)
    table.mkdir()
    found = [np.zeros(0, np.uint64)]
    for record in stage.records(PartRecord):
        found.append(np.unique(synapse_of(record.label)))
        if len(found) > _RECORDS_AT_ONCE:
            found = [np.unique(np.concatenate(found))]
    bounds = np.unique(np.concatenate(found))[SYNAPSES_AT_ONCE::SYNAPSES_AT_ONCE]
    parts, contacts = (Buckets(table, name, bounds, 6) for name in ("parts", "contacts"))
    for record in stage.records(PartRecord):
        key = synapse_of(record.label)
        parts.add(key, record.label, record.neuron, record.voxels, record.sums)
        contacts.add(record.synapse, record.synapse, record.pre, record.post, record.faces)
    ends: list[int] = []
    for number in range(parts.count):
        rows = parts.read(number)
        (label, neuron), into = grouped([rows[:, 0], rows[:, 1]])
        append_parts(table, label, neuron, totals(rows[:, 2:], into, len(label)))
        ends.append(len(label) + (ends[-1] if ends else 0))
    return _Gathered(ends, contacts)


def _parts(
    table: Path, gathered: _Gathered, nearest: Buckets, number: int, instances: Image
) -> Parts:
    """Put the parts of a range of synapses together."""
    begin = gathered.ends[number - 1] if number else 0
    columns = open_parts(table)
    label, neuron, voxels = (
        np.array(columns[name][begin : gathered.ends[number]])
        for name in ("label", "neuron", "voxels")
    )
    part, distance, voxel = nearest.read(number).T
    flat = voxel[first_of_each(part, distance, voxel)].astype(np.int64)
    at = np.stack(np.unravel_index(flat, tuple(instances.shape_vx)), axis=1)
    size = np.array(instances.voxel_size_nm, float)
    rows = gathered.contacts.read(number)
    touching, into = grouped([rows[:, 0], rows[:, 1], rows[:, 2]])
    synapse, pre, post = touching
    return Parts(
        label=label,
        neuron=neuron,
        voxels=voxels,
        anchor=np.array(instances.offset_nm, float) + (at + 0.5) * size,
        pre=find_rows(label, neuron, pre_label(synapse), pre),
        post=find_rows(label, neuron, post_label(synapse), post),
        area=totals(rows[:, 3:], into, len(synapse)) @ (size.prod() / size),
    )
