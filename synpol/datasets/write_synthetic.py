"""Synthetic volumes on disk: a blockwise stage like any other."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr

from synpol.blockwise.driver import Driver
from synpol.blockwise.grid import BlockGrid
from synpol.blockwise.records import Done, Index, write_record
from synpol.blockwise.stage import VoxelStage
from synpol.config import SyntheticDataset
from synpol.datasets.polyadic import MIN_POST_VOXELS, TrueLinks
from synpol.datasets.synthetic import Region, SyntheticVolume
from synpol.errors import InputError
from synpol.files import is_url, join, whole_file
from synpol.images.blocks import write_block
from synpol.images.claim import Answer, Claim, begun, claim_image
from synpol.images.identity import hash_of
from synpol.images.image import Image, open_image
from synpol.images.writing import check_writable, complete, create_image
from synpol.polarity import side_labels, split_labels, synapse_of

BLOCK = (40, 320, 320)
TRUE_LINKS = "true_links.parquet"
IMAGES = {"raw": np.uint8, "neurons": np.uint64, "truth": np.uint64}


@dataclass(frozen=True)
class MadeArrays:
    """Arrays that the first stage writes, open; each (z, y, x).

    Attributes
    ----------
    raw, neurons : zarr.Array
        Image and neurons, in the container.
    labels : zarr.Array
        Sides of synapses before they are numbered.
    """

    raw: zarr.Array
    neurons: zarr.Array
    labels: zarr.Array


@dataclass(frozen=True)
class MadeLabels:
    """Labels that the first stage made in one block: its record.

    Attributes
    ----------
    labels : (n,) uint64
        Labels in the block, sorted.
    voxels : (n,) int64
        Number of voxels of each.
    """

    labels: np.ndarray
    voxels: np.ndarray


@dataclass(frozen=True)
class SynthesiseStage(VoxelStage[MadeArrays, None, Region]):
    """Make the image and the neurons of every block, and its labels as they come.

    Attributes
    ----------
    container, labels : str
        Paths of the container with ``raw`` and ``neurons``, and of an array for the labels.
    volume : SyntheticVolume
    blocks : BlockGrid
    """

    container: str
    labels: str
    volume: SyntheticVolume

    name = "synthesise"
    version = 3
    voxel_cost = 4

    def open(self) -> MadeArrays:
        return MadeArrays(
            raw=open_image(join(self.container, "raw"), mode="r+").array,
            neurons=open_image(join(self.container, "neurons"), mode="r+").array,
            labels=zarr.open_array(self.labels, mode="r+"),
        )

    def compute(self, index: Index, opened: MadeArrays, given: None) -> Region:
        begin, end = self.blocks.bounds(index)
        size = tuple(e - b for b, e in zip(begin, end, strict=True))
        return self.volume.make(begin, size)  # type: ignore[arg-type]

    def write(self, index: Index, opened: MadeArrays, result: Region) -> None:
        where, labels = self.blocks.slices(index), result.labels
        write_block(opened.raw, where, result.raw)
        write_block(opened.labels, where, labels)
        write_block(opened.neurons, where, result.neurons)
        present, voxels = np.unique(labels[labels > 0], return_counts=True)
        write_record(self.folder, index, MadeLabels(present, voxels.astype(np.int64)))


@dataclass(frozen=True)
class NumberedArrays:
    """Arrays that the second stage reads and writes, open.

    Attributes
    ----------
    kept : (n,) uint64
        Synapses that stay, sorted; the position of one, counted from 1, becomes its number.
    labels, truth : zarr.Array
        Labels that the first stage made, and the array to write; each (z, y, x).
    """

    kept: np.ndarray
    labels: zarr.Array
    truth: zarr.Array


@dataclass(frozen=True)
class NumberLabelsStage(VoxelStage[NumberedArrays, np.ndarray, np.ndarray]):
    """Number synapses 1, 2, ... and drop those that the border left without a side.

    Attributes
    ----------
    made : SynthesiseStage
        Stage that made the labels.
    min_side_voxels : int
        Number of voxels that each side of a synapse has at least; 0 keeps all synapses.
    """

    made: SynthesiseStage
    min_side_voxels: int

    name = "number labels"
    voxel_cost = 0.25

    def open(self) -> NumberedArrays:
        return NumberedArrays(
            kept=self.kept(),
            labels=zarr.open_array(self.made.labels, mode="r"),
            truth=open_image(join(self.made.container, "truth"), mode="r+").array,
        )

    def kept(self) -> np.ndarray:
        """Find the synapses that have both sides in all of the volume."""
        records = list(self.made.records(MadeLabels))
        labels = np.concatenate([record.labels for record in records])
        voxels = np.concatenate([record.voxels for record in records])
        present, into = np.unique(labels, return_inverse=True)
        size = np.zeros(len(present), np.int64)
        np.add.at(size, into, voxels)
        large = present[size >= self.min_side_voxels]
        synapse, sides = np.unique(synapse_of(large), return_counts=True)
        return synapse[sides == 2] if self.min_side_voxels else synapse

    def read(self, index: Index, opened: NumberedArrays) -> np.ndarray:
        return np.asarray(opened.labels[self.blocks.slices(index)])

    def compute(self, index: Index, opened: NumberedArrays, given: np.ndarray) -> np.ndarray:
        kept, labels = opened.kept, given
        synapse, pre = split_labels(labels)
        number = np.searchsorted(kept, synapse)
        inside = (labels > 0) & (number < len(kept))
        inside[inside] = kept[number[inside]] == synapse[inside]
        return side_labels(number.astype(np.uint64) + 1, inside & pre, inside & ~pre)

    def write(self, index: Index, opened: NumberedArrays, result: np.ndarray) -> None:
        write_block(opened.truth, self.blocks.slices(index), result)
        write_record(self.folder, index, Done())


@dataclass(frozen=True)
class MadeLinks:
    """Links of the synapses that belong to one block, as `TrueLinks` has them: its record.

    Attributes
    ----------
    synapse, pre_id, post_id : (n,) uint64
        Synapses as they are numbered in the truth, and neurons.
    pre, post : (n, 3) float64
        Places of the ends, nm.
    """

    synapse: np.ndarray
    pre_id: np.ndarray
    post_id: np.ndarray
    pre: np.ndarray
    post: np.ndarray


@dataclass(frozen=True)
class TrueLinksStage(VoxelStage[np.ndarray, None, TrueLinks]):
    """Find the links of the synapses of every block.

    Attributes
    ----------
    number : NumberLabelsStage
        Stage that numbered the synapses.
    """

    number: NumberLabelsStage

    name = "true links"
    voxel_cost = 1

    def open(self) -> np.ndarray:
        return self.number.kept()

    def compute(self, index: Index, opened: np.ndarray, given: None) -> TrueLinks:
        begin, end = self.blocks.bounds(index)
        size = tuple(e - b for b, e in zip(begin, end, strict=True))
        least = max(MIN_POST_VOXELS, self.number.min_side_voxels)
        whole = ((0, 0, 0), self.blocks.shape)
        links = self.number.made.volume.links(begin, size, whole, least)  # type: ignore[arg-type]
        at = np.minimum(np.searchsorted(opened, links.synapse), max(0, len(opened) - 1))
        kept = opened[at] == links.synapse if len(opened) else np.zeros(0, bool)
        return TrueLinks(*(a[kept] for a in links._replace(synapse=at.astype(np.uint64) + 1)))

    def write(self, index: Index, opened: np.ndarray, result: TrueLinks) -> None:
        write_record(self.folder, index, MadeLinks(*result))


def write_true_links(path: Path, stage: TrueLinksStage) -> None:
    """Write the links of all blocks as one table, in the order of synapses and post neurons."""
    records = list(stage.records(MadeLinks))
    links = TrueLinks(
        *(np.concatenate([getattr(r, name) for r in records]) for name in TrueLinks._fields)
    )
    order = np.lexsort((links.post_id, links.synapse))
    columns = {"link_id": np.arange(1, len(order) + 1, dtype=np.uint64)}
    columns |= {"synapse_id": links.synapse[order]}
    columns |= {"pre_id": links.pre_id[order], "post_id": links.post_id[order]}
    for side, place in (("pre", links.pre), ("post", links.post)):
        columns |= {f"{side}_{axis}": place[order, k] for k, axis in enumerate("zyx")}
    with whole_file(path) as temporary:
        pq.write_table(pa.table(columns), temporary)


def write_synthetic(dataset: SyntheticDataset, num_workers: int) -> Image:
    """Write a synthetic volume; what is there already is left alone.

    Its images are ``raw``, ``truth`` (2n-1 / 2n) and ``neurons``; beside them lies the table
    ``true_links.parquet``, where it is polyadic.

    Returns
    -------
    Image
        The raw image.
    """
    if is_url(dataset.output):
        raise InputError(f"output is {dataset.output}; synthetic volumes are written locally only")
    digest = hash_of([dataset.model_dump(mode="json"), SynthesiseStage.version])
    table = Path(dataset.output) / TRUE_LINKS
    there = table.is_file() or not dataset.polyadic
    if there and _claims(dataset.output, digest)["truth"].answer is Answer.FINISHED:  # the last one
        return open_image(join(dataset.output, "raw"))
    check_writable(dataset.output)
    work = Path(f"{dataset.output}.work")
    blocks = BlockGrid.of(dataset.shape, BLOCK)
    with Driver(work, f"making of {dataset.output}", num_workers) as driver:
        folder = work / f"synthetic-{digest[:16]}"
        labels = folder / "labels"
        claims = _claims(dataset.output, digest)
        anew = any(claim.answer is Answer.ANEW for claim in claims.values())
        if anew:
            table.unlink(missing_ok=True)
        if anew or not (labels / "zarr.json").exists():
            for old in work.glob("synthetic-*"):
                shutil.rmtree(old)
            zarr.create_array(
                str(labels), shape=blocks.shape, chunks=blocks.block, dtype=np.uint64, fill_value=0
            )
            for name, dtype in IMAGES.items():
                create_image(
                    dataset.output,
                    name,
                    shape=blocks.shape,
                    dtype=dtype,
                    voxel_size=dataset.voxel_size,
                    offset=(0, 0, 0),
                    unit="nm",
                    chunk_shape=[
                        min(c, b) for c, b in zip((20, 80, 80), blocks.block, strict=True)
                    ],
                    attributes=begun(digest),
                    overwrite=claims[name].found is not None,
                )
        volume = SyntheticVolume(
            dataset.voxel_size, dataset.seed, dataset.difficulty, dataset.polyadic
        )
        make = SynthesiseStage(
            folder=folder / "make",
            container=dataset.output,
            labels=str(labels),
            volume=volume,
            blocks=blocks,
        )
        driver.run(make)
        number = NumberLabelsStage(
            folder=folder / "number",
            blocks=blocks,
            made=make,
            min_side_voxels=dataset.min_side_voxels,
        )
        driver.run(number)
        if dataset.polyadic:
            stage = TrueLinksStage(folder=folder / "links", blocks=blocks, number=number)
            driver.run(stage)
            write_true_links(table, stage)
        for name in IMAGES:
            image = open_image(join(dataset.output, name), mode="r+")
            complete(image)
        shutil.rmtree(folder)
    return open_image(join(dataset.output, "raw"))


def _claims(container: str, digest: str) -> dict[str, Claim]:
    """Look at what lies where the images are to be written."""
    return {name: claim_image(join(container, name), digest) for name in IMAGES}
