"""Cut what a reviewer sees of one synapse out of volumes of any size.

A tile is a stack of sections around the synapse, as they were imaged, and three cuts that are
turned so that pre -> post points to the right: through both sides, along the third direction, and
across the cleft. Only the chunks around the synapse are read. The sides are pictures of their own,
so that a page can show and hide them.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image as Picture
from scipy.ndimage import map_coordinates

from synpol.images.downsampling import mean_of_cells
from synpol.images.image import Image, shifted
from synpol.images.reading import read_voxels
from synpol.polarity import split_labels
from synpol.report.colours import POST, PRE, UNION

#: least distance of two sections of a stack, nm
STEP = 16.0
#: most pixels along the side of a section, and pixels along the side of a turned cut
PIXELS, CUT_PIXELS = 512, 200
#: length of the side of a turned cut, as a share of a tile's
CUT = 0.7
#: shortest extent of pre -> post within a section that turns the section, as a share of its length
LEVEL = 0.2
#: palette of the sides, RGBA: none; inside of pre, post, no side, others; then their edges
_OTHERS = np.array([1.0, 1.0, 1.0])
_COLOURS = (PRE, POST, UNION, _OTHERS)
_PALETTE = [(0, 0, 0, 0)]
_PALETTE += [(*(np.array(c) * 255).astype(int).tolist(), 40) for c in _COLOURS[:3]]
_PALETTE += [(*(np.array(_OTHERS) * 255).astype(int).tolist(), 20)]
_PALETTE += [(*(np.array(c) * 255).astype(int).tolist(), 255) for c in _COLOURS[:3]]
_PALETTE += [(*(np.array(_OTHERS) * 255).astype(int).tolist(), 150)]
BY_SIDE = {"pre": 1, "post": 2, "no side": 3, "others": 4}
EDGE = 4


@dataclass(frozen=True)
class Tile:
    """Pictures of one place, as PNG, and where they lie.

    Attributes
    ----------
    stack, stack_sides : bytes
        Sections one below the other, grey; and what the instances are there, as colours, with
        several pixels for a voxel, so that outlines are thin.
    cuts, cuts_sides : bytes
        Three turned cuts side by side: pre -> post to the right and within the section downwards;
        pre -> post to the right and across the sections downwards; across the cleft.
    sections : int
    size : (int, int)
        Height and width of a section, pixels.
    corner : (float, float, float)
        Place of the upper left corner of the first section, in the middle of its thickness, z, y,
        x; nm.
    step : (float, float, float)
        Distance of two sections, and of two pixels, z, y, x; nm.
    angle : float
        Angle of pre -> post within a section, from x to y; radians.
    cut_extent : float
        Length of a side of a turned cut, nm.
    """

    stack: bytes
    stack_sides: bytes
    cuts: bytes
    cuts_sides: bytes
    sections: int
    size: tuple[int, int]
    corner: tuple[float, float, float]
    step: tuple[float, float, float]
    angle: float
    cut_extent: float


@dataclass(frozen=True)
class Volume:
    """Image and instances that tiles are cut from.

    Attributes
    ----------
    raw, instances : Image
    sides : bool
        Whether labels are 2n-1 and 2n instead of n.
    begin : (int, int, int)
        First voxel of the instances in the image.
    """

    raw: Image
    instances: Image
    sides: bool
    begin: tuple[int, int, int]

    @classmethod
    def of(cls, raw: Image, instances: Image, sides: bool) -> Volume:
        """Put both together; the image has to cover the instances."""
        return cls(raw, instances, sides, raw.place_of(instances, "the image"))

    @property
    def low(self) -> np.ndarray:
        """Lower corner of the instances, z, y, x; nm."""
        return np.array(self.instances.offset_nm, float)

    @property
    def high(self) -> np.ndarray:
        """Upper corner of the instances, nm."""
        return np.array(self.instances.end_nm, float)


def box_of(instances: Image, extent: float, sections: int) -> np.ndarray:
    """Return the size of what a tile without direction shows, z, y, x; nm."""
    thickness = instances.voxel_size_nm[0]
    return np.array([sections * _stride(thickness) * thickness, extent, extent])


def cut_tile(
    volume: Volume,
    pre: Sequence[float],
    post: Sequence[float],
    number: int,
    extent: float,
    sections: int,
) -> Tile:
    """Cut the tile of a synapse, or of a place.

    Parameters
    ----------
    volume : Volume
    pre, post : 3 floats
        Centroids of both sides, z, y, x; nm. Of a place without a synapse, twice its middle.
    number : int
        Number of the synapse, whose sides are coloured; 0: the sides of all synapses are.
    extent : float
        Length of a side of the tile, nm.
    sections : int
        Number of sections of the stack.
    """
    size, low = np.array(volume.instances.voxel_size_nm), volume.low
    ends = np.array([pre, post], float)
    middle, vector = ends.mean(axis=0), ends[1] - ends[0]
    length = float(np.linalg.norm(vector))
    level = float(np.hypot(*vector[1:]))
    angle = float(np.arctan2(vector[1], vector[2])) if level > LEVEL * length else 0.0
    stride = _stride(size[0])
    shape = np.array(volume.instances.shape_vx)
    centre = np.clip(np.floor((middle - low) / size).astype(int), 0, shape - 1)
    half = np.ceil(np.array([extent / 2, extent / 2**0.5, extent / 2**0.5]) / size).astype(int)
    half[0] = max(half[0], stride * (sections // 2))
    grey, sides = _read(volume, centre - half, centre + half + 1, number)
    first = half[0] - stride * (sections // 2)
    rows = slice(first, first + stride * sections, stride)
    fine = -(-2 * int(half[1:].max()) // PIXELS)
    stack, stack_sides = grey[rows], sides[rows]
    if fine > 1:
        stack = mean_of_cells(stack, (1, fine, fine))
        stack_sides = np.ascontiguousarray(stack_sides[:, ::fine, ::fine])
    thin = max(1, PIXELS // max(stack.shape[1:]))
    stack_sides = _with_edges(stack_sides.repeat(thin, axis=1).repeat(thin, axis=2))
    cuts, cuts_sides = _turned(
        grey, sides, (middle - low) / size - centre + half, vector, size, extent
    )
    corner = low + (centre - half) * size
    corner[0] += (first + 0.5) * size[0]
    z, y, x = corner.tolist()
    return Tile(
        stack=_png(stack.reshape(-1, stack.shape[2])),
        stack_sides=_png(stack_sides.reshape(-1, stack_sides.shape[2]), colours=True),
        cuts=_png(np.concatenate(list(cuts), axis=1)),
        cuts_sides=_png(np.concatenate(list(_with_edges(cuts_sides)), axis=1), colours=True),
        sections=len(stack),
        size=(stack.shape[1], stack.shape[2]),
        corner=(z, y, x),
        step=(float(stride * size[0]), float(fine * size[1]), float(fine * size[2])),
        angle=angle,
        cut_extent=CUT * extent,
    )


def _stride(thickness: float) -> int:
    """Return how many voxels two sections of a stack are apart."""
    return max(1, round(STEP / thickness))


def _read(
    volume: Volume, begin: np.ndarray, end: np.ndarray, number: int
) -> tuple[np.ndarray, np.ndarray]:
    """Read image and sides of a box, chunk layer by chunk layer; 0 outside of the volume.

    Returns
    -------
    (z, y, x) uint8
        Grey values.
    (z, y, x) uint8
        Values of `BY_SIDE`.
    """
    raw, instances = volume.raw, volume.instances
    low = np.maximum(begin, 0)
    high = np.minimum(end, instances.shape_vx)
    shape = tuple(int(n) for n in end - begin)
    grey, sides = np.zeros(shape, raw.array.dtype), np.zeros(shape, np.uint8)
    layer = instances.array.chunks[-3]
    first = int(low[0])
    while first < high[0]:
        last = int(min(high[0], (first // layer + 1) * layer))
        box = (
            slice(first, last),
            *(slice(int(a), int(b)) for a, b in zip(low[1:], high[1:], strict=True)),
        )
        inside = tuple(
            slice(b.start - int(o), b.stop - int(o)) for b, o in zip(box, begin, strict=True)
        )
        grey[inside] = read_voxels(raw.array, shifted(box, volume.begin), raw.source)
        labels = read_voxels(instances.array, box, instances.source)
        sides[inside] = _by_side(labels, number, volume.sides)
        first = last
    known = tuple(slice(int(a), int(b)) for a, b in zip(low - begin, high - begin, strict=True))
    shown = np.zeros(shape, np.uint8)
    shown[known] = _stretched(grey[known])
    return shown, sides


def _by_side(labels: np.ndarray, number: int, has_sides: bool) -> np.ndarray:
    """Tell for each voxel which side of the synapse it is on, or that it is of another one."""
    if has_sides:
        synapse, is_pre = split_labels(labels)
        side = np.where(is_pre, BY_SIDE["pre"], BY_SIDE["post"]).astype(np.uint8)
    else:
        synapse, side = labels, np.full(labels.shape, BY_SIDE["no side"], np.uint8)
    side[synapse == 0] = 0
    if number:
        side[(synapse != 0) & (synapse != number)] = BY_SIDE["others"]
    return side


def _with_edges(sides: np.ndarray) -> np.ndarray:
    """Mark the voxels of each side that have another neighbour within the section."""
    edge = np.zeros(sides.shape, bool)
    for axis in (1, 2):
        differs = np.diff(sides.astype(np.int8), axis=axis) != 0
        before = [slice(None)] * 3
        after = [slice(None)] * 3
        before[axis], after[axis] = slice(None, -1), slice(1, None)
        edge[tuple(before)] |= differs
        edge[tuple(after)] |= differs
    return np.where(edge & (sides > 0), sides + EDGE, sides).astype(np.uint8)


def _stretched(grey: np.ndarray) -> np.ndarray:
    """Bring grey values to 0..255, with the 0.5 and 99.5 percentiles as limits."""
    known = grey[::2, ::2, ::2]
    low, high = np.percentile(known, [0.5, 99.5]) if known.size else (0, 1)
    scale = 255 / max(float(high - low), 1e-6)
    scaled = np.clip((grey.astype(np.float32) - low) * scale, 0, 255)
    return np.asarray(np.rint(scaled).astype(np.uint8))


def directions(vector: np.ndarray) -> np.ndarray:
    """Return three directions at right angles, z, y, x: pre -> post, within a section, the third.

    Parameters
    ----------
    vector : (3,) float64
        From pre to post, nm; zero where there is no direction: then that of x.
    """
    length = float(np.linalg.norm(vector))
    along = vector / length if length else np.array([0.0, 0.0, 1.0])
    level = float(np.hypot(*along[1:]))
    across = np.array([0, along[2], -along[1]]) / level if level > 1e-6 else np.array([0.0, 1, 0])
    third = np.cross(along, across)
    return np.stack([along, across, third if third[0] >= 0 else -third])


def _turned(
    grey: np.ndarray,
    sides: np.ndarray,
    middle: np.ndarray,
    vector: np.ndarray,
    size: np.ndarray,
    extent: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Cut a box along three planes.

    Returns
    -------
    (3, n, n) uint8, twice
        Grey values, and sides.
    """
    along, across, third = directions(vector)
    steps = (np.arange(CUT_PIXELS) + 0.5 - CUT_PIXELS / 2) * CUT * extent / CUT_PIXELS
    planes = [(across, along), (third, along), (third, across)]  # downwards, to the right
    places = np.stack(
        [steps[:, None, None] * down + steps[None, :, None] * right for down, right in planes]
    )
    voxels = np.moveaxis(places / size + middle - 0.5, -1, 0)
    grey_cut = map_coordinates(grey, voxels, order=1, mode="constant", cval=0)
    return grey_cut, map_coordinates(sides, voxels, order=0, mode="constant", cval=0)


def _png(picture: np.ndarray, colours: bool = False) -> bytes:
    """Encode a picture as PNG: grey, or values of the palette."""
    image = Picture.fromarray(np.ascontiguousarray(picture))
    if colours:
        image = image.copy()
        image.putpalette([c for rgba in _PALETTE for c in rgba[:3]])
    file = io.BytesIO()
    more = {"transparency": bytes(rgba[3] for rgba in _PALETTE)} if colours else {}
    image.save(file, "PNG", compress_level=1, **more)
    return file.getvalue()
