"""Describe the instances array that a decoding will write, and check the one that exists."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import zarr
from funlib.geometry import Coordinate

from synpol.blockwise.grid import BlockGrid
from synpol.blockwise.records import Index
from synpol.decoding.reference import rescaled_shape
from synpol.decoding.rescale import rescaled_blocks
from synpol.errors import InputError
from synpol.files import join
from synpol.images.claim import SETTINGS, is_ours, replaceable_image
from synpol.images.image import Image

#: what to do about instances that cannot be replaced
ADVICE = "remove it or give another output"


@dataclass(frozen=True)
class Target:
    """The instances array to write.

    Attributes
    ----------
    blocks : BlockGrid
        Blocks of the array.
    voxel_size : Coordinate
        Size of its voxels, in the unit of the prediction.
    full_shape : (int, int, int)
        Shape before it was resized, voxels.
    """

    blocks: BlockGrid
    voxel_size: Coordinate
    full_shape: Index

    def could_replace(self, instances: zarr.Array) -> bool:
        """Tell whether synpol decoded an array from this volume with other scale factors."""
        settings = instances.attrs.get(SETTINGS)
        if not isinstance(settings, dict):
            return False
        factors = settings.get("scale_factors", (1, 1, 1))
        return rescaled_shape(self.full_shape, factors) == tuple(instances.shape)

    @classmethod
    def of(cls, source: Image, blocks: BlockGrid, scale_factors: Sequence[float]) -> Target:
        """Return the target for a prediction (or an image of its voxels) cut into `blocks`.

        Raises
        ------
        InputError
            The scale factors are no positive numbers, or they leave no whole voxel size.
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


def check_output(output: str | os.PathLike[str], target: Target, fresh: bool = False) -> None:
    """Raise InputError where an ``instances`` array exists that this job cannot write.

    Parameters
    ----------
    output : path or URL
        Container of the array.
    target : Target
        Array to write.
    fresh : bool
        Whether an array of another shape may be replaced, if synpol wrote it.

    Raises
    ------
    InputError
        The array holds data that synpol did not write, or has another shape, or its chunks (or
        shards) do not fit the blocks, so that two workers would write one chunk.
    """
    blocks = target.blocks
    image = replaceable_image(join(output, "instances"), ADVICE, replace_empty=True)
    if image is None:
        return
    path, found = image.path, image.array
    if tuple(found.shape) != blocks.shape:
        if target.could_replace(found) or (fresh and is_ours(found)):
            return
        raise InputError(
            f"{path} exists with the shape {found.shape}, but {blocks.shape} is to be written; "
            f"{ADVICE}"
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
