"""The part of an image that is predicted."""

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
