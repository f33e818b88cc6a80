"""Say which region of an image is predicted, in voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from funlib.geometry import Coordinate

from synpol.blockwise.grid import index_of
from synpol.blockwise.records import Index
from synpol.errors import InputError
from synpol.images.identity import identity_of
from synpol.images.image import Image
from synpol.images.labels import open_labels
from synpol.images.location import is_whole
from synpol.images.world import in_unit

if TYPE_CHECKING:
    from synpol.config import Predict, Roi


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
            Region in the unit that the image's metadata name, nm for longer ones.

        Raises
        ------
        InputError
            The region does not lie on whole voxels inside the image.
        """
        if roi is None:
            return cls((0, 0, 0), index_of(source.shape_vx))
        first, shape = [], []
        unit = source.said_unit or source.unit
        one = in_unit(Coordinate(1), unit, source.unit)[0]
        for axis, v in enumerate(source.voxel_size):
            begin, end = (e[axis] / one for e in (source.offset, source.roi.end))
            offset, extent = roi.offset[axis], roi.shape[axis]
            first_vx, extent_vx = (offset - begin) * one / v, extent * one / v
            if not is_whole(first_vx) or not is_whole(extent_vx) or round(extent_vx) < 1:
                raise InputError(
                    f"predict.roi does not lie on whole voxels along {'zyx'[axis]}: offset "
                    f"{offset} and shape {extent} {unit}, but voxels of {v / one:.10g} "
                    f"that begin at {begin:.10g}"
                )
            first.append(round(first_vx))
            shape.append(round(extent_vx))
            if first[-1] < 0 or first[-1] + shape[-1] > source.shape_vx[axis]:
                covered = f"{begin:.10g}..{end:.10g}"
                raise InputError(
                    f"predict.roi reaches beyond {source.path} along {'zyx'[axis]}: "
                    f"{offset}..{offset + extent} {unit}, but the image is {covered}"
                )
        return cls(index_of(first), index_of(shape))

    def check_overlap(self, mask: Image, source: Image) -> None:
        """Refuse a mask that lies wholly beside this region of an image.

        Raises
        ------
        InputError
            The mask and the region have no voxel in common.
        """
        for axis, size in enumerate(source.voxel_size_nm):
            first = source.offset_nm[axis] + self.offset[axis] * size
            last = first + self.shape[axis] * size
            begin, end = mask.offset_nm[axis], mask.end_nm[axis]
            if end <= first or begin >= last:
                predicted, covered = f"{first:.10g}..{last:.10g}", f"{begin:.10g}..{end:.10g}"
                raise InputError(
                    f"predict.mask {mask.path} lies beside what is predicted: along "
                    f"{'zyx'[axis]} it covers {covered} nm, that is {predicted}"
                )

    def check_same(self, found: Image, source: Image) -> None:
        """Refuse to replace a prediction of another region of an image.

        Parameters
        ----------
        found : Image
            Prediction that exists.
        source : Image
            Image that this region is cut out of.

        Raises
        ------
        InputError
            Naming both regions, and how to keep or to replace what is there.
        """
        axes = zip(source.offset_nm, self.offset, source.voxel_size_nm, strict=True)
        corner = [o + first * v for o, first, v in axes]
        size = [n * v for n, v in zip(self.shape, source.voxel_size_nm, strict=True)]
        known = [e - o for o, e in zip(found.offset_nm, found.end_nm, strict=True)]
        differences = np.subtract([*corner, *size], [*found.offset_nm, *known])
        if np.abs(differences).max() > 1e-6:
            raise InputError(
                f"{found.path} holds the prediction of another region: "
                f"{_region(found.offset_nm, known)}, and {_region(corner, size)} is to be "
                "predicted (predict.roi). Give another predict.output to keep it, or --fresh to "
                "replace it"
            )


def _region(corner: Sequence[float], size: Sequence[float]) -> str:
    """Write a region as the config does, in nm."""
    shown = [", ".join(f"{round(v, 6) + 0.0:.12g}" for v in values) for values in (corner, size)]
    return "offset [{}], shape [{}] nm".format(*shown)


def roi_of(part: Image) -> Roi:
    """Return what ``predict.roi`` has to say for a part of an image; see `Image.part`."""
    from synpol.config import Roi

    unit = part.said_unit or part.unit
    one = in_unit(Coordinate(1), unit, part.unit)[0]
    offset, shape = (
        [v // one if v % one == 0 else v / one for v in values]
        for values in (part.offset, part.roi.shape)
    )
    return Roi.model_validate({"offset": offset, "shape": shape})


def opened_mask(predict: Predict, source: Image, roi: VoxelRoi) -> Image | None:
    """Open the mask of a prediction, if there is one.

    Raises
    ------
    InputError
        There is no mask at this path, or none for this region of the image.
    """
    if predict.mask is None:
        return None
    mask = open_labels(predict.mask, "mask").fitted_to(source)
    roi.check_overlap(mask, source)
    return mask


def mask_identity(mask: Image) -> dict[str, Any]:
    """Describe the state of a mask, and which of its values count as 0."""
    found = mask.array.dtype.itemsize <= 2 and mask.background  # other types were not searched
    return identity_of(mask) | ({"background": list(mask.background)} if found else {})
