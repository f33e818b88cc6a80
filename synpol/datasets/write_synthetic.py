"""Synthetic volumes on disk: a blockwise stage like any other."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from synpol.blockwise.driver import Driver
from synpol.blockwise.grid import BlockGrid
from synpol.blockwise.records import Index, read_record, write_record
from synpol.blockwise.stage import Stage, blocks_of
from synpol.config import SyntheticDataset
from synpol.datasets.importers import existing
from synpol.datasets.synthetic import Region, SyntheticVolume
from synpol.errors import InputError
from synpol.files import is_url, join
from synpol.images.identity import hash_of
from synpol.images.image import COMPLETE, HASH, Image, open_image
from synpol.images.writing import check_writable, complete, create_image, write_block
from synpol.polarity import side_labels, split_labels, synapse_of

VERSION = 3
BLOCK = (40, 320, 320)
IMAGES = {"raw": np.uint8, "neurons": np.uint64, "truth": np.uint64}


@dataclass(frozen=True)
class SynthesiseStage(Stage):
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
    blocks: BlockGrid

    name = "synthesise"
    job_cost = 2**24

    def start(self) -> Any:
        images = [open_image(join(self.container, n), mode="r+").array for n in ("raw", "neurons")]
        return images[0], zarr.open_array(self.labels, mode="r+"), images[1]

    def compute(self, index: Index, loaded: Any, given: Any) -> Region:
        begin, end = self.blocks.bounds(index)
        size = tuple(e - b for b, e in zip(begin, end, strict=True))
        return self.volume.make(begin, size)  # type: ignore[arg-type]

    def write(self, index: Index, loaded: Any, result: Region) -> None:
        for array, made in zip(loaded, result, strict=True):
            write_block(array, self.blocks.slices(index), made)
        labels = result.labels
        present, voxels = np.unique(labels[labels > 0], return_counts=True)
        write_record(self.folder, index, {"labels": present, "voxels": voxels.astype(np.int64)})


@dataclass(frozen=True)
class NumberLabelsStage(Stage):
    """Number synapses 1, 2, ... and drop those that the border left without a side."""

    container: str
    labels: str
    blocks: BlockGrid
    made: Path
    min_side_voxels: int

    name = "number labels"
    job_cost = 2**20

    def start(self) -> Any:
        records = [read_record(self.made, index) for index in blocks_of(self.grid)]
        labels = np.concatenate([r["labels"] for r in records])
        voxels = np.concatenate([r["voxels"] for r in records])
        present, into = np.unique(labels, return_inverse=True)
        size = np.zeros(len(present), np.int64)
        np.add.at(size, into, voxels)
        large = present[size >= self.min_side_voxels]
        synapse, sides = np.unique(synapse_of(large), return_counts=True)
        kept = synapse[sides == 2] if self.min_side_voxels else synapse
        truth = open_image(join(self.container, "truth"), mode="r+").array
        return kept, zarr.open_array(self.labels, mode="r"), truth

    def read(self, index: Index, loaded: Any) -> np.ndarray:
        return np.asarray(loaded[1][self.blocks.slices(index)])

    def compute(self, index: Index, loaded: Any, given: np.ndarray) -> np.ndarray:
        kept, labels = loaded[0], given
        synapse, pre = split_labels(labels)
        number = np.searchsorted(kept, synapse)
        inside = (labels > 0) & (number < len(kept))
        inside[inside] = kept[number[inside]] == synapse[inside]
        return side_labels(number.astype(np.uint64) + 1, inside & pre, inside & ~pre)

    def write(self, index: Index, loaded: Any, result: np.ndarray) -> None:
        write_block(loaded[2], self.blocks.slices(index), result)
        write_record(self.folder, index, {})


def write_synthetic(dataset: SyntheticDataset, num_workers: int) -> Image:
    """Write a synthetic volume; what is there already is left alone.

    Its images are ``raw``, ``truth`` (2n-1 / 2n) and ``neurons``.

    Returns
    -------
    Image
        The raw image.
    """
    if is_url(dataset.output):
        raise InputError(f"output is {dataset.output}; synthetic volumes are written locally only")
    digest = hash_of([dataset.model_dump(mode="json"), VERSION])
    found = existing(join(dataset.output, "truth"), digest)
    for name in ("raw", "neurons"):
        existing(join(dataset.output, name), digest)  # refuses what synpol did not write
    if found is not None:
        return open_image(join(dataset.output, "raw"))
    check_writable(dataset.output)
    work = Path(f"{dataset.output}.work")
    blocks = BlockGrid.of(dataset.shape, BLOCK)
    with Driver(work, f"making of {dataset.output}", num_workers) as driver:
        folder = work / f"synthetic-{digest[:16]}"
        labels = folder / "labels"
        if not _begun(dataset.output, digest) or not (labels / "zarr.json").exists():
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
                    attributes={HASH: digest, COMPLETE: False},
                    overwrite=True,
                )
        volume = SyntheticVolume(dataset.voxel_size, dataset.seed, dataset.difficulty)
        make = SynthesiseStage(
            folder / "make", blocks.grid, dataset.output, str(labels), volume, blocks
        )
        driver.run(make)
        driver.run(
            NumberLabelsStage(
                folder / "number",
                blocks.grid,
                dataset.output,
                str(labels),
                blocks,
                make.folder,
                dataset.min_side_voxels,
            )
        )
        for name in IMAGES:
            image = open_image(join(dataset.output, name), mode="r+")
            complete(image)
        shutil.rmtree(folder)
    return open_image(join(dataset.output, "raw"))


def _begun(container: str, digest: str) -> bool:
    """Whether all images of this making are there, finished or not."""
    for name in IMAGES:
        try:
            image = open_image(join(container, name))
        except InputError:
            return False
        if image.array.attrs.get(HASH) != digest:
            return False
    return True
