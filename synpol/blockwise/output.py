"""What blockwise jobs share about their input and output: identity, place, shape and chunks."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zarr
from funlib.geometry import Coordinate

from synpol.arrays import HASH, SETTINGS, Image, check_complete, is_url, join, open_image
from synpol.blockwise.geometry import BlockGrid, index_of
from synpol.blockwise.records import Index
from synpol.blockwise.rescale import rescaled_blocks
from synpol.decoding import rescaled_shape
from synpol.errors import InputError

if TYPE_CHECKING:
    from synpol.config import Roi


@dataclass(frozen=True)
class Part:
    """The part of an image that is predicted.

    Attributes
    ----------
    begin : (int, int, int)
        First voxel.
    shape : (int, int, int)
        Voxels.
    """

    begin: Index
    shape: Index

    @classmethod
    def of(cls, source: Image, roi: Roi | None) -> Part:
        """What ``predict.roi`` says, in voxels.

        Raises
        ------
        InputError
            It does not lie on whole voxels inside the image.
        """
        if roi is None:
            return cls((0, 0, 0), index_of(source.shape_vx))
        begin, shape = [], []
        for axis, v in enumerate(source.voxel_size):
            offset, extent = roi.offset[axis] - source.offset[axis], roi.shape[axis]
            if offset % v or extent % v:
                raise InputError(
                    f"predict.roi does not lie on whole voxels along {'zyx'[axis]}: offset "
                    f"{roi.offset[axis]} and shape {extent} {source.unit}, but voxels of {v} "
                    f"that begin at {source.offset[axis]}"
                )
            begin.append(offset // v)
            shape.append(extent // v)
            if begin[-1] < 0 or begin[-1] + shape[-1] > source.shape_vx[axis]:
                first, last = source.offset[axis], source.offset[axis]
                last += source.shape_vx[axis] * v
                raise InputError(
                    f"predict.roi reaches beyond {source.path} along {'zyx'[axis]}: "
                    f"{roi.offset[axis]}..{roi.offset[axis] + extent} {source.unit}, but the image "
                    f"is {first}..{last}"
                )
        return cls(index_of(begin), index_of(shape))

    def check_meets(self, mask: Image, source: Image) -> None:
        """Refuse a mask that lies wholly beside this part of an image.

        Raises
        ------
        InputError
        """
        for axis, v in enumerate(source.voxel_size):
            first = source.offset[axis] + self.begin[axis] * v
            last = first + self.shape[axis] * v
            begin = mask.offset[axis]
            end = begin + mask.shape_vx[axis] * mask.voxel_size[axis]
            if end <= first or begin >= last:
                raise InputError(
                    f"predict.mask {mask.path} lies beside what is predicted: along "
                    f"{'zyx'[axis]} it covers {begin}..{end} {mask.unit}, that is {first}..{last}"
                )


def identity_of(image: Image) -> dict[str, Any]:
    """What tells one state of an array from another.

    For an array that synpol wrote its hash does; for a foreign one, path and metadata do.

    Raises
    ------
    InputError
        synpol began to write the array and did not finish.
    """
    attributes = dict(image.array.attrs)
    about: dict[str, Any] = {
        "path": image.path if is_url(image.path) else str(Path(image.path).resolve()),
        "shape": list(image.array.shape),
        "dtype": str(image.array.dtype),
        "voxel_size": list(image.voxel_size),
        "offset": list(image.offset),
        "unit": image.unit,
    }
    check_complete(image)
    if HASH in attributes:
        about |= {"hash": attributes[HASH]}
    return about


def hash_of(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def work_folder(output: str | os.PathLike[str], work_dir: str | os.PathLike[str] | None) -> Path:
    if work_dir is None:
        if is_url(output):
            raise InputError(f"{output} is remote: give work_dir, a folder that all workers share")
        return Path(f"{Path(output).resolve()}.work")
    if is_url(work_dir):
        raise InputError(f"work_dir is {work_dir}; a folder is expected, not a URL")
    return Path(work_dir).resolve()


@dataclass(frozen=True)
class Target:
    """What the instances will look like: blocks and voxel size."""

    blocks: BlockGrid
    voxel_size: Coordinate
    full_shape: Index

    def could_replace(self, instances: zarr.Array) -> bool:
        """Whether an array is of the same volume, decoded by synpol with other scale factors."""
        settings = instances.attrs.get(SETTINGS)
        if HASH not in instances.attrs or not isinstance(settings, dict):
            return False
        factors = settings.get("scale_factors", (1, 1, 1))
        return rescaled_shape(self.full_shape, factors) == tuple(instances.shape)

    @classmethod
    def of(cls, source: Image, blocks: BlockGrid, scale_factors: Sequence[float]) -> Target:
        """For a prediction (or an image on its grid) that is cut into `blocks`.

        Raises
        ------
        InputError
            Scale factors that cannot be meant, or that leave no whole voxel size.
        """
        shape = rescaled_shape(blocks.shape, scale_factors)
        if shape == blocks.shape:
            return cls(blocks, source.voxel_size, blocks.shape)
        axes = zip(source.voxel_size, blocks.shape, shape, strict=True)
        size = [v * s / t for v, s, t in axes]
        if any(v != int(v) for v in size):
            raise InputError(
                f"scale_factors {tuple(scale_factors)} make {shape} voxels of {blocks.shape}, of "
                f"{tuple(round(v, 3) for v in size)} {source.unit} each; whole sizes "
                "are expected: choose factors that the shape and the voxel size can be divided by"
            )
        whole = Coordinate(int(v) for v in size)
        return cls(rescaled_blocks(blocks, shape), whole, blocks.shape)


def check_output(output: str | os.PathLike[str], target: Target) -> None:
    """Refuse an existing ``instances`` array that this job cannot write.

    Raises
    ------
    InputError
        It holds data that synpol did not write, its shape is another, or its chunks (shards) do
        not fit the blocks, so that two workers would write one chunk.
    """
    blocks = target.blocks
    path = join(output, "instances", "s0")
    try:
        found = open_image(path).array
    except InputError:
        return
    if tuple(found.shape) != blocks.shape:
        if target.could_replace(found):
            return
        raise InputError(
            f"{path} exists with the shape {found.shape}, but {blocks.shape} is to be written; "
            "remove it or give another output"
        )
    if HASH not in found.attrs and found.nchunks_initialized:
        raise InputError(
            f"{path} exists with data that synpol did not write; remove it or give another output"
        )
    unit = found.shards or found.chunks
    for axis, (chunk, block, size) in enumerate(zip(unit, blocks.block, blocks.shape, strict=True)):
        if block % chunk and block < size:
            raise InputError(
                f"{path} exists with chunks of {tuple(unit)} voxels, which do not fit blocks of "
                f"{blocks.block}: along {'zyx'[axis]}, {block} is not a multiple of {chunk}, and "
                "two workers would write one chunk. Choose a block_shape that is a multiple of the "
                "chunks, or remove the output"
            )


def inner_chunks(block: Sequence[int]) -> tuple[int, ...]:
    """Chunks within a block-sized shard: the largest divisor of each side up to 128.

    A side without a divisor from 32 on stays whole, so that no prime side leaves slivers.
    """
    largest = [max(d for d in range(1, min(128, b) + 1) if b % d == 0) for b in block]
    return tuple(d if d >= min(32, b) else b for d, b in zip(largest, block, strict=True))
