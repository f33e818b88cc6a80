"""Where an image lies in the world, and how two images lie to each other.

Images are compared in nm, whatever unit each of them is in.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from funlib.geometry import Coordinate, Roi

from synpol.errors import InputError
from synpol.images.world import in_nm

#: how far apart two voxel sizes may be that count as the same, as a fraction of one
SAME_SIZE = 1e-6
#: how far apart two places may be that count as the same, as a fraction of a voxel
SAME_PLACE = 0.01


class Located:
    """The place of an image: what all images have, wherever their voxels are stored.

    Attributes
    ----------
    path : str
        Path or URL, for messages.
    voxel_size, offset : Coordinate
        Size of a voxel, and corner of the first voxel, in `unit`; z, y, x.
    unit : str
    placed : bool
        False where nothing says the place, so that `offset` is 0; the centre of the first voxel may
        as well be there.
    point : {"corner", "centre"}
        Which point of the first voxel the metadata tell the place of.
    """

    path: str
    voxel_size: Coordinate
    offset: Coordinate
    unit: str
    placed: bool
    point: str

    @property
    def shape_vx(self) -> Coordinate:
        """Spatial shape in voxels."""
        raise NotImplementedError

    @property
    def roi(self) -> Roi:
        """What the image covers, in world units."""
        return Roi(self.offset, self.shape_vx * self.voxel_size)

    @property
    def voxel_size_nm(self) -> tuple[float, ...]:
        return tuple(in_nm(v, self.unit) for v in self.voxel_size)

    @property
    def offset_nm(self) -> tuple[float, ...]:
        return tuple(in_nm(v, self.unit) for v in self.offset)

    @property
    def end_nm(self) -> tuple[float, ...]:
        """The corner of the last voxel, opposite to `offset_nm`."""
        sizes = zip(self.offset_nm, self.shape_vx, self.voxel_size_nm, strict=True)
        return tuple(o + n * v for o, n, v in sizes)

    def voxels(self, roi: Roi) -> tuple[slice, slice, slice]:
        """Slices of the voxels in a ROI that lies on the voxel grid."""
        begin = (roi.begin - self.offset) / self.voxel_size
        end = (roi.end - self.offset) / self.voxel_size
        return tuple(slice(b, e) for b, e in zip(begin, end, strict=True))  # type: ignore[return-value]

    def same_grid(self, other: Located, what: str) -> None:
        """Refuse another image that does not cover the same voxels.

        Raises
        ------
        InputError
            Naming both images and what differs.
        """
        size, theirs_size = self.voxel_size_nm, other.voxel_size_nm
        same = same_size(size, theirs_size)
        begin = self.begin_of(other) if same else [0.0] * 3
        for name, mine, theirs, equal in (
            ("shape (z, y, x)", self.shape_vx, other.shape_vx, self.shape_vx == other.shape_vx),
            ("voxel size", size, theirs_size, same),
            ("offset", self.offset_nm, other.offset_nm, max(map(abs, begin)) <= SAME_PLACE),
        ):
            if not equal:
                unit = "voxels" if name.startswith("shape") else "nm"
                raise InputError(
                    f"{what} {other.path} has the {name} {tuple(theirs)} {unit}, but "
                    f"{self.path} has {tuple(mine)} {unit}; both must cover the same voxels"
                    + (hint_about_places(begin, self, other) if name == "offset" else "")
                )

    def place_of(
        self, part: Located, what: str, coarser: bool = False, partly: bool = False
    ) -> tuple[int, int, int]:
        """Where another image begins within this one, in voxels of that other image.

        Parameters
        ----------
        part : Image
            Has to lie inside this image on the same voxel grid.
        what : str
            What this image is, for the message.
        coarser : bool
            Whether voxels of this image may be whole multiples of those of the other; see
            `multiple_of`.
        partly : bool
            Whether it is enough that this image covers a part of the other.

        Raises
        ------
        InputError
            Naming both images and what differs.
        """
        size = part.voxel_size_nm
        if not coarser and not same_size(size, self.voxel_size_nm):
            raise InputError(
                f"{what} {self.path} has the voxel size {self.voxel_size_nm} nm, but {part.path} "
                f"has {size} nm; both must have the same voxels"
            )
        multiple = self.multiple_of(part, what)
        shape = np.array(self.shape_vx) * multiple
        begins = self.begin_of(part, multiple)
        fits = all(n <= m for n, m in zip(part.shape_vx, shape, strict=True))
        for axis, begin in enumerate(begins):
            end = begin + part.shape_vx[axis]
            beside = begin < -SAME_PLACE or end > shape[axis] + SAME_PLACE
            if partly:
                beside = end < 1 - SAME_PLACE or begin > shape[axis] - 1 + SAME_PLACE
            if not is_whole(begin) or beside:
                covered = [
                    f"{o:.10g}..{o + n * size[axis]:.10g}"
                    for o, n in (
                        (part.offset_nm[axis], part.shape_vx[axis]),
                        (self.offset_nm[axis], shape[axis]),
                    )
                ]
                raise InputError(
                    f"{what} {self.path} does not cover {part.path} on whole voxels along "
                    f"{'zyx'[axis]}: it is {covered[1]} nm, that is {covered[0]} nm"
                    + (hint_about_places(begins, self, part) if fits else "")
                )
        z, y, x = (round(begin) for begin in begins)
        return z, y, x

    def begin_of(self, part: Located, multiple: Sequence[int] = (1, 1, 1)) -> list[float]:
        """Where a part begins within this image, in its voxels, of which `multiple` make one.

        Where nothing says the place of one of them, the centre of its first voxel may be at 0
        instead of the corner; so it is if the voxels of both fit then.
        """
        places = zip(part.offset_nm, self.offset_nm, part.voxel_size_nm, strict=True)
        begin = [(p - o) / s for p, o, s in places]
        shifts = [[0.0] * 3]
        shifts += [] if part.placed else [[-0.5] * 3]
        shifts += [] if self.placed else [[m / 2 for m in multiple]]
        for shift in shifts:
            moved = [b + s for b, s in zip(begin, shift, strict=True)]
            if all(map(is_whole, moved)):
                return moved
        return begin

    def multiple_of(self, finer: Located, what: str) -> tuple[int, int, int]:
        """How many voxels of another image make one of this along z, y and x.

        Raises
        ------
        InputError
            It is no whole number; `what` says what this image is.
        """
        ratios = [a / b for a, b in zip(self.voxel_size_nm, finer.voxel_size_nm, strict=True)]
        if any(abs(r - round(r)) > 1e-5 * r or round(r) < 1 for r in ratios):
            raise InputError(
                f"{what} {self.path} has the voxel size {self.voxel_size_nm} nm, which is no whole "
                f"multiple of that of {finer.path}, {finer.voxel_size_nm} nm"
            )
        z, y, x = (round(r) for r in ratios)
        return z, y, x


def is_whole(voxels: float) -> bool:
    """Whether a number of voxels is whole but for what rounding leaves."""
    return abs(voxels - round(voxels)) <= SAME_PLACE


def hint_about_places(begin: Sequence[float], image: Located, other: Located) -> str:
    """What to do about two images of which one has no place, or that are half a voxel apart."""
    for one, there in ((other, image), (image, other)):
        if not one.placed and there.placed:
            return (
                f". Nothing says where {one.path} lies; say it (corner of its first voxel, nm): "
                f"{{path: {one.path}, offset: {list(there.offset_nm)}}}"
            )
    if not all(is_whole(b + 0.5) for b in begin):
        return ""
    first, last = (other, image) if begin[0] < 0 else (image, other)
    told = ". They are half a voxel apart: one tells the corner of its first voxel, the other the "
    told += "centre, or one of them is wrong. "
    if first.point == "centre":
        return told + f"Say which is told: {{path: {first.path}, origin: corner}}"
    if last.point == "corner":
        return told + f"Say which is told: {{path: {last.path}, origin: centre}}"
    return told + "Correct the place of one of them"


def same_size(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether two voxel sizes are the same but for rounding."""
    return all(abs(v - w) <= SAME_SIZE * max(abs(v), abs(w)) for v, w in zip(a, b, strict=True))


def same_place(a: Sequence[float], b: Sequence[float], size: Sequence[float]) -> bool:
    """Whether two places are the same but for rounding; `size` is that of a voxel there."""
    return all(abs(v - w) <= SAME_PLACE * s for v, w, s in zip(a, b, size, strict=True))
