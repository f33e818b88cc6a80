"""Say what a stage is that makes an image from another image, block by block."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import zarr
from numpy.typing import DTypeLike

from synpol.blockwise.grid import BlockGrid
from synpol.blockwise.records import Index
from synpol.blockwise.stage import ArrayStage
from synpol.errors import InputError
from synpol.images.image import open_image
from synpol.images.reading import read_voxels

if TYPE_CHECKING:
    from synpol.config import ImageSource

_NO_BLOCKS = BlockGrid((0, 0, 0), (1, 1, 1))


@dataclass(frozen=True)
class OpenImages:
    """An image and the image that is made from it, open.

    Attributes
    ----------
    source, output : zarr.Array
        Array to read and array to write; (z, y, x) or (channel, z, y, x).
    """

    source: zarr.Array
    output: zarr.Array


@dataclass(frozen=True, kw_only=True)
class ImageStage(ArrayStage[OpenImages, np.ndarray]):
    """Make an image from another image, block by block.

    A subclass has a `name`, its options as fields, and a method `transform`. Run it with
    `synpol.blockwise.run_image_stage`, which fills in the fields below.

    Attributes
    ----------
    blocks : BlockGrid
        Blocks of the image to write.
    source : str or ImageSource
        Array to read.
    output : str
        Path or URL of the array to write.
    """

    blocks: BlockGrid = _NO_BLOCKS
    source: str | ImageSource = ""
    output: str = ""

    #: type of the voxels of the new image; None: the type of the source
    dtype: ClassVar[DTypeLike | None] = None
    #: number of channels of the new image, 0 for (z, y, x); None: as many as the source has
    channels: ClassVar[int | None] = None

    @property
    def halo(self) -> Index:
        """Number of voxels along z, y, x that `transform` sees on each side of a block."""
        return (0, 0, 0)

    @abstractmethod
    def transform(self, voxels: np.ndarray) -> np.ndarray:
        """Turn voxels of the source into voxels of the new image.

        Parameters
        ----------
        voxels : array
            A block with its halo, which ends where the image ends; (z, y, x) or
            (channel, z, y, x).

        Returns
        -------
        array
            The same voxels of the new image, the halo included; the halo is cut off afterwards.
        """

    def open(self) -> OpenImages:
        return OpenImages(
            source=open_image(self.source).array,
            output=open_image(self.output, mode="r+").array,
        )

    @property
    def filled(self) -> str:
        return self.output

    def target(self, opened: OpenImages) -> zarr.Array:
        return opened.output

    def read(self, index: Index, opened: OpenImages) -> np.ndarray:
        begin, end = self.blocks.bounds(index)
        axes = zip(begin, end, self.halo, self.blocks.shape, strict=True)
        z, y, x = (slice(max(0, b - halo), min(n, e + halo)) for b, e, halo, n in axes)
        return read_voxels(opened.source, (..., z, y, x), self.source)

    def compute(self, index: Index, opened: OpenImages, given: np.ndarray) -> np.ndarray | None:
        made = self.transform(given)
        begin, end = self.blocks.bounds(index)
        axes = zip(begin, end, self.halo, strict=True)
        z, y, x = (slice(min(b, halo), min(b, halo) + e - b) for b, e, halo in axes)
        block = made[..., z, y, x]
        self._check(index, opened, block)
        return block if block.any() else None

    def _check(self, index: Index, opened: OpenImages, block: np.ndarray) -> None:
        """Refuse a block that does not fit into the new image.

        Raises
        ------
        InputError
            It has another shape, or its values may not fit into the type of the image.
        """
        output = opened.output
        expected = (*output.shape[:-3], *self.blocks.shape_of(index))
        if block.shape != expected:
            raise InputError(
                f"{self.name}: transform made a block of the shape {block.shape}, {expected} is "
                "expected; its result has the voxels of its input, and as many channels as "
                "`channels` of the stage says"
            )
        if not np.can_cast(block.dtype, output.dtype, casting="safe"):
            raise InputError(
                f"{self.name}: transform made {block.dtype}, but the image is {output.dtype}; "
                "convert the result, or say which type the image has: `dtype` of the stage"
            )
