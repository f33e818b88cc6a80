"""Say which region of an image is predicted, in voxels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from synpol.blockwise.grid import index_of
from synpol.blockwise.records import Index
from synpol.errors import InputError
from synpol.images.image import Image

if TYPE_CHECKING:
    from synpol.config import Roi


@dataclass(frozen=True)
class VoxelRoi:
    """A region of an image, in voxels of this image.

    Attributes
    ----------
    offset : (int, int, int)
        First voxel of the region.
    shape : (int, int, int)
        Number of voxels along z, y, x.
    """

    offset: Index
    shape: Index

    @classmethod
    def of(cls, source: Image, roi: Roi | None) -> VoxelRoi:
        """Turn a region in world units into voxels; None is the whole image.

        Parameters
        ----------
        source : Image
            Image that the region is cut out of.
        roi : synpol.config.Roi or None
            Region in the unit of the image.

        Raises
        ------
        InputError
            The region does not lie on whole voxels inside the image.
        """
        if roi is None:
            return cls((0, 0, 0), index_of(source.shape_vx))
        first, shape = [], []
        for axis, v in enumerate(source.voxel_size):
            offset, extent = roi.offset[axis] - source.offset[axis], roi.shape[axis]
            if offset % v or extent % v:
                raise InputError(
                    f"predict.roi does not lie on whole voxels along {'zyx'[axis]}: offset "
                    f"{roi.offset[axis]} and shape {extent} {source.unit}, but voxels of {v} "
                    f"that begin at {source.offset[axis]}"
                )
            first.append(offset // v)
            shape.append(extent // v)
            if first[-1] < 0 or first[-1] + shape[-1] > source.shape_vx[axis]:
                begin = source.offset[axis]
                end = begin + source.shape_vx[axis] * v
                raise InputError(
                    f"predict.roi reaches beyond {source.path} along {'zyx'[axis]}: "
                    f"{roi.offset[axis]}..{roi.offset[axis] + extent} {source.unit}, but the image "
                    f"is {begin}..{end}"
                )
        return cls(index_of(first), index_of(shape))

    def check_overlap(self, mask: Image, source: Image) -> None:
        """Refuse a mask that lies wholly beside this region of an image.

        Raises
        ------
        InputError
            The mask and the region have no voxel in common.
        """
        for axis, v in enumerate(source.voxel_size):
            first = source.offset[axis] + self.offset[axis] * v
            last = first + self.shape[axis] * v
            begin = mask.offset[axis]
            end = begin + mask.shape_vx[axis] * mask.voxel_size[axis]
            if end <= first or begin >= last:
                raise InputError(
                    f"predict.mask {mask.path} lies beside what is predicted: along "
                    f"{'zyx'[axis]} it covers {begin}..{end} {mask.unit}, that is {first}..{last}"
                )
