"""Synthetic electron-microscopy volume with known synaptic polarity, made block by block.

Why it exists: the demo, the tests and the benchmark need raw data with an exact answer, of any
size, on any machine, without a download. The volume has no stored array. Every grey value and
every label follows from ``(seed, position)``, so a region cut from a larger region equals, byte
for byte, the same region made alone, and workers can each make their own block.

What was decided:

* Geometry is defined in nanometres. The same seed at another voxel size shows the same tissue.
  Only section jumps and sensor noise belong to the voxel grid, and the rule that drops a synapse
  with a side under ``MIN_SIDE_VOXELS`` voxels is judged there as well.
* What the tissue looks like is in ``tissue.py``, the random numbers behind it are in ``noise.py``;
  painting is here. Everything depends on a bounded neighbourhood only, and overlapping objects are
  painted in lattice order.
* Grey level alone must not give polarity away: the vesicles of the pre side darken it about as
  much as the density darkens the post side.

Axis order is z, y, x everywhere; z runs across sections.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import NamedTuple

import numpy as np

from synpol.datasets.noise import bell, grid_noise, hash_at, key_of, mix, uniform
from synpol.datasets.tissue import (
    CELL_MARGIN,
    MIN_SYNAPSE_DISTANCE,
    REACH,
    SYNAPSE_MARGIN,
    SYNAPSE_SPACING,
    Cues,
    Neurites,
    Sites,
    distractor_sites,
    membrane_sites,
    near_box,
    side_masks,
    thin_out,
    vesicle_positions,
    warp_grid,
    warp_points,
)
from synpol.errors import InputError
from synpol.polarity import post_label, pre_label

MIN_VESICLES = 8  # a synapse whose cell has room for fewer does not exist
NUMBER_BITS = 20  # per axis, for the lattice cell inside a number
LIMIT_NM = (2 ** (NUMBER_BITS - 1)) * SYNAPSE_SPACING - 10_000.0
LIMIT = 2**30  # voxels or nm: products of two such numbers fit int64


# ---------------------------------------------------------------- painting


class _Canvas:
    """Grey values (float32, 0..1) of one box of voxels while they are painted."""

    def __init__(
        self, tissue: Neurites, low: np.ndarray, shape: np.ndarray, voxel: np.ndarray
    ) -> None:
        self.tissue, self.low, self.shape, self.voxel = tissue, low, shape, voxel
        self.axes = [
            np.arange(a, a + n) * float(v) for a, n, v in zip(low, shape, voxel, strict=True)
        ]
        self.warp = warp_grid(tissue.seed, self.axes)
        self.owner = np.empty(shape, np.int32)
        self.depth, self.tilt = np.empty(shape, np.float32), np.empty(shape, np.float32)
        size = np.maximum(4, 256 // voxel)
        for index in np.ndindex(*((low + shape - 1) // size - low // size + 1)):
            corner = (low // size + index) * size
            origin = (corner * voxel).astype(np.float64)
            part, q = self.within(corner, corner + size, origin, warped=True)
            self.owner[part], self.depth[part], self.tilt[part] = tissue.tile(q, origin)
        self.free = np.ones(shape, np.float32)  # 1 outside mitochondria
        self.fine = self.noise("fine", (34.0, 21.0, 21.0))
        self.grey = self._cytoplasm()

    def noise(self, name: str, wavelength: float | tuple[float, float, float]) -> np.ndarray:
        """Make the smooth noise of a name on this box."""
        return grid_noise(key_of(self.tissue.seed, name), self.axes, wavelength)

    def within(
        self, start: np.ndarray, stop: np.ndarray, origin: np.ndarray, warped: bool
    ) -> tuple[tuple[slice, ...] | None, list[np.ndarray]]:
        """Return slices of a voxel range in this box, and positions there relative to origin.

        The slices are None where nothing of the range lies in the box.
        """
        start = np.maximum(start - self.low, 0)
        stop = np.minimum(stop - self.low, self.shape)
        if (start >= stop).any():
            return None, []
        part = tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
        axes = np.ix_(*(a[s] for a, s in zip(self.axes, part, strict=True)))
        local = [(a - c).astype(np.float32) for a, c in zip(axes, origin, strict=True)]
        if warped:
            local = [a + w[part] for a, w in zip(local, self.warp, strict=True)]
        return part, local

    def around(
        self, p: np.ndarray, reach: float, warped: bool = False
    ) -> tuple[tuple[slice, ...] | None, list[np.ndarray]]:
        """Do as `within` does for the voxels within ``reach`` nm of a point, relative to it."""
        start = np.ceil((p - reach) / self.voxel).astype(np.int64)
        stop = np.floor((p + reach) / self.voxel).astype(np.int64) + 1
        return self.within(start, stop, p, warped)

    def _cytoplasm(self) -> np.ndarray:
        """Paint cytoplasm with its texture, sheets of endoplasmic reticulum, and membranes."""
        grey = np.float32(0.68) + self.tissue.shade[self.owner]
        coarse = self.noise("coarse", 420.0)
        self.middle = middle = self.noise("middle", 75.0)
        grey += coarse * np.float32(0.012) + middle * np.float32(0.022)
        grey += self.fine * np.float32(0.04)
        grey -= np.maximum(self.fine + 0.5 * middle - np.float32(1), 0) * np.float32(0.13)
        sheet = np.maximum(1 - abs(self.noise("reticulum", 260.0)) * np.float32(11), 0)
        sheet *= np.clip(coarse - np.float32(0.6), 0, 1) * (self.depth > 45)
        grey *= 1 - np.float32(0.45) * sheet
        grain = 1 + np.float32(0.12) * middle
        width2 = np.float32(150 + 0.16 * self.voxel[1] * self.voxel[2])
        wide2 = width2 + (np.float32(0.45 * self.voxel[0]) * self.tilt) ** 2
        dark = np.float32(0.80) * np.sqrt(width2 / wide2) * grain
        return grey * (1 - dark * _bump(self.depth * self.depth / (np.float32(2.9) * wide2)))

    def mitochondrion(self, cell: int, p: np.ndarray, length: float, width: float) -> None:
        """Paint a mitochondrion of half ``length`` and half ``width`` (nm) along its neurite."""
        part, q = self.around(p, length * 1.2 + 40, warped=True)
        if part is None:
            return
        q = [
            a - np.float32(w)
            for a, w in zip(q, warp_points(self.tissue.seed, p[None])[0], strict=True)
        ]
        uz, uy, ux = self.tissue.axis[cell].astype(np.float32)
        along = q[0] * uz + q[1] * uy + q[2] * ux
        across2 = np.maximum(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] - along * along, 0)
        round_ = np.sqrt((along / np.float32(length)) ** 2 + across2 / np.float32(width * width))
        round_ = round_ + np.float32(0.05) * self.middle[part]
        depth = np.minimum((1 - round_) * np.float32(width), self.depth[part] - np.float32(32))
        depth = np.where(self.owner[part] == cell, depth, np.float32(-99))
        soft = np.float32(0.5 * self.voxel[2])
        inside = np.clip(depth / soft + np.float32(0.5), 0, 1)
        rim = _bump(((depth - 7) / (np.float32(9) + soft)) ** 2)
        stripe = along * np.float32(1 / 52) + (q[1] * uz - q[0] * ux) * np.float32(1 / 75)
        stripe = stripe + self.fine[part] * np.float32(0.13)
        stripe = abs(stripe - np.floor(stripe) - np.float32(0.5)) * 2
        dark = inside * (np.float32(0.24) + np.float32(0.30) * np.clip(stripe * 2 - 0.9, 0, 1))
        self.grey[part] *= 1 - np.maximum(dark, np.float32(0.62) * rim * (depth > -20))
        self.free[part] *= 1 - np.clip(inside + rim, 0, 1)

    def vesicle(self, p: np.ndarray, darkness: float) -> None:
        """Paint one vesicle: a dark ring of about 35 nm around a light lumen."""
        part, local = self.around(p, 30.0 + self.voxel[0] * 0.35)
        if part is None:
            return
        dz, dy, dx = local
        dz = np.maximum(abs(dz) - np.float32(0.35 * self.voxel[0]), 0)
        d = np.sqrt(dz * dz + dy * dy + dx * dx)
        ring = _bump(((d - np.float32(12.5)) / np.float32(6 + 0.28 * self.voxel[2])) ** 2)
        lumen = _bump(d * d / np.float32(100))
        change = (np.float32(0.2) * lumen - np.float32(darkness) * ring) * self.free[part]
        self.grey[part] *= 1 + change

    def density(self, sites: Sites, row: int, darkness: float, thick: bool) -> None:
        """Paint a density with its thin pre partner, or a membrane thick on both sides."""
        p, pre, post = sites.p[row], int(sites.pre[row]), int(sites.post[row])
        part, q = self.around(p, 215.0, warped=True)
        if part is None:
            return
        u = uniform(sites.hash[row : row + 1], 6)[0, 5]
        depth = -self.tissue.membrane_depth(pre, post, q, p)
        off = self.around(p, 215.0)[1]
        radius = 130 + 60 * u + (25 if thick else 0)
        lateral = np.clip(np.float32(2.2) * _bump(sum(a * a for a in off) / radius**2), 0, 1)
        on_post, on_pre = self.owner[part] == post, self.owner[part] == pre
        deep = np.clip((np.float32(62) - depth) / 26, 0, 1) * on_post
        thin = np.clip((np.float32(26) + depth) / 14, 0, 1) * on_pre
        if thick:
            deep = np.clip((np.float32(40) - abs(depth)) / 20, 0, 1) * (on_post | on_pre)
            thin = np.float32(0)
        grain = np.clip(1 + np.float32(0.16) * self.fine[part], 0, np.float32(1.15))
        change = np.maximum(deep, np.float32(0.6) * thin) * lateral * grain * self.free[part]
        self.grey[part] *= 1 - np.float32(darkness) * change

    def blob(self, p: np.ndarray, radius: float) -> None:
        """Paint a dark round body (nm)."""
        part, local = self.around(p, 2 * radius)
        if part is not None:
            off = sum(a * a for a in local) / np.float32(radius * radius)
            edge = np.clip(np.float32(1.6) * _bump(off * np.float32(0.6)), 0, 1)
            self.grey[part] *= 1 - np.float32(0.7) * edge

    def develop(self, cues: Cues) -> np.ndarray:
        """Blur in plane, add section jumps and sensor noise, and round to uint8 (halo kept)."""
        grey = self.grey
        for axis in (1, 2):
            side = np.float32(min(0.25, 24.0 / float(self.voxel[axis]) ** 2))
            blurred = grey * (1 - 2 * side)
            middle = [slice(None)] * 3
            lower, upper = list(middle), list(middle)
            middle[axis], lower[axis], upper[axis] = slice(1, -1), slice(0, -2), slice(2, None)
            blurred[tuple(middle)] += (grey[tuple(lower)] + grey[tuple(upper)]) * side
            grey = blurred
        index = np.ix_(*(np.arange(a, a + n) for a, n in zip(self.low, self.shape, strict=True)))
        seed = self.tissue.seed
        noise = bell(hash_at(key_of(seed, "sensor").reshape(1, 1, 1), *index))
        gain = 1 + bell(hash_at(key_of(seed, "gain"), index[0])) * np.float32(0.06 * cues.jump)
        shift = bell(hash_at(key_of(seed, "offset"), index[0])) * np.float32(0.03 * cues.jump)
        grey = (grey + noise * np.float32(cues.noise)) * gain + shift
        return np.rint(np.clip(grey, 0, 1) * np.float32(255)).astype(np.uint8)


def _bump(x: np.ndarray) -> np.ndarray:
    """Return a soft bump: 1 at x = 0, and 0 from x = 1 on (x is a squared distance)."""
    rest = np.maximum(1 - x, np.float32(0))
    return rest * rest


def _paint_mitochondria(canvas: _Canvas, lo: np.ndarray, hi: np.ndarray) -> None:
    """Paint the mitochondria of all neurites near the box."""
    tissue = canvas.tissue
    rows = np.flatnonzero(near_box(tissue.centre, lo, hi, 1400.0))
    u = uniform(mix(tissue.hash[rows]), 4)
    along = (2 * u[:, 1] - 1) * tissue.half[rows]
    p = tissue.unwarp(tissue.centre[rows] + along[:, None] * tissue.axis[rows])
    for row in np.flatnonzero(u[:, 0] < 0.38):
        length, width = 170 + 260 * u[row, 2], 95 + 75 * u[row, 3]
        canvas.mitochondrion(int(rows[row]), p[row], length, width)


def _number(cells: np.ndarray) -> np.ndarray:
    """Number lattice cells (n, 3): int64 from 1 to 2**60."""
    z, y, x = (cells + 2 ** (NUMBER_BITS - 1)).T
    return 1 + (z << (2 * NUMBER_BITS)) + (y << NUMBER_BITS) + x


# ---------------------------------------------------------------- the volume


class Region(NamedTuple):
    """Image, labels and neurons of one region, as `SyntheticVolume.make` returns them."""

    raw: np.ndarray
    labels: np.ndarray
    neurons: np.ndarray


@dataclass(frozen=True)
class SyntheticVolume:
    """An endless synthetic EM volume with pre and post labels, made region by region.

    Parameters
    ----------
    voxel_size : tuple of int
        Size of a voxel along z, y, x in nm.
    seed : int
        World number, >= 0. Another seed is another piece of tissue.
    difficulty : float
        From 0 (easy, the demo) to 1 (hard, the benchmark). In proportion to it, vesicles per
        cloud and the contrast of vesicles and densities fall by a quarter to a third, clouds
        spread, distractors (lone clouds, lone densities, thick membranes, dark
        blobs) nearly double, and sensor noise and section jumps grow by half. The tissue and the
        candidate synapses stay the same.

    Examples
    --------
    >>> volume = SyntheticVolume((30, 16, 16), seed=5)
    >>> raw, labels = volume.region((0, 0, 0), (4, 64, 64))
    >>> raw.shape, str(raw.dtype), str(labels.dtype)
    ((4, 64, 64), 'uint8', 'uint64')

    A region is the same when it is part of a larger one:

    >>> larger, _ = volume.region((0, 0, 0), (4, 64, 96))
    >>> bool((larger[:, :, :64] == raw).all())
    True
    """

    voxel_size: tuple[int, int, int] = (30, 16, 16)
    seed: int = 0
    difficulty: float = 0.0

    def __post_init__(self) -> None:
        _whole("voxel_size", self.voxel_size, 1)
        if not isinstance(self.seed, Integral) or not 0 <= self.seed < 2**64:
            raise InputError(f"seed is {self.seed!r}; expected a whole number from 0 to 2**64 - 1")
        if not isinstance(self.difficulty, Real) or not 0 <= self.difficulty <= 1:
            raise InputError(f"difficulty is {self.difficulty!r}; expected a number from 0 to 1")

    def region(
        self, offset_vx: tuple[int, int, int], shape_vx: tuple[int, int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Image and labels of one region; see `make`."""
        made = self.make(offset_vx, shape_vx)
        return made.raw, made.labels

    def make(self, offset_vx: tuple[int, int, int], shape_vx: tuple[int, int, int]) -> Region:
        """Make one region of the volume.

        Parameters
        ----------
        offset_vx : tuple of int
            First voxel along z, y, x. May be negative; the world ends 20 cm from the origin.
        shape_vx : tuple of int
            Number of voxels along z, y, x.

        Returns
        -------
        raw : ndarray of uint8, shape ``shape_vx``
            Grey values, dark membranes.
        labels : ndarray of uint64, shape ``shape_vx``
            0 background, ``2 n - 1`` the pre side of synapse ``n``, ``2 n`` its post side. ``n``
            follows from the synapse's place alone (not dense): with ``c`` the cell of its
            candidate in a lattice of ``SYNAPSE_SPACING`` nm and ``b = c + 2**19`` per axis,
            ``n = 1 + b_z 2**40 + b_y 2**20 + b_x``, so ``2 n < 2**62``. Sides are cut at the
            border of the region.
        neurons : ndarray of uint64, shape ``shape_vx``
            The neurite that every voxel lies in, numbered from its place in its lattice likewise.
        """
        low, shape = _whole("offset_vx", offset_vx, -LIMIT), _whole("shape_vx", shape_vx, 1)
        voxel, halo = np.array(self.voxel_size, np.int64), np.array([0, 2, 2])
        lo, hi = ((a * voxel).astype(np.float64) for a in (low - halo, low + shape + halo - 1))
        if (lo < -LIMIT_NM).any() or (hi > LIMIT_NM).any():
            raise InputError(
                f"offset_vx is {tuple(offset_vx)} with shape_vx {tuple(shape_vx)}; expected a "
                f"region within {LIMIT_NM:.0f} nm of the origin along every axis"
            )
        cues, seed = Cues.at(float(self.difficulty)), int(self.seed)
        tissue = Neurites(seed, lo - CELL_MARGIN, hi + CELL_MARGIN)
        box = (lo - SYNAPSE_MARGIN, hi + SYNAPSE_MARGIN, SYNAPSE_SPACING)
        synapses = membrane_sites(tissue, "synapse", *box)
        synapses = synapses[thin_out(synapses, MIN_SYNAPSE_DISTANCE, 2)]
        others, kinds = distractor_sites(tissue, synapses, cues, lo, hi)
        synapses = synapses[near_box(synapses.p, lo, hi, REACH)]

        canvas = _Canvas(tissue, low - halo, shape + 2 * halo, voxel)
        _paint_mitochondria(canvas, lo, hi)
        labels = np.zeros(shape, np.uint64)
        numbers = _number(synapses.cells)
        clouds = vesicle_positions(tissue, synapses, cues, "vesicle", 65.0)
        for row, cloud in enumerate(clouds):
            sides = side_masks(tissue, synapses, row, voxel) if len(cloud) >= MIN_VESICLES else None
            if sides is None:
                continue
            canvas.density(synapses, row, cues.density, thick=False)
            for p in cloud:
                canvas.vesicle(p, cues.ring)
            number = int(numbers[row])
            for mask, label in zip(sides[1:], (pre_label(number), post_label(number)), strict=True):
                _stamp(labels, mask, sides[0] - low, label)
        for row in np.flatnonzero(kinds < 2).tolist():
            canvas.density(others, row, cues.density, thick=bool(kinds[row] == 1))
        for cloud in vesicle_positions(tissue, others[kinds == 2], cues, "lone", 0.0):
            for p in cloud:
                canvas.vesicle(p, cues.ring)
        blobs = others[kinds == 3]
        for p, u in zip(blobs.p, uniform(blobs.hash, 4)[:, 3], strict=True):
            canvas.blob(p, 30 + 40 * u)
        neurons = _number(tissue.lattice).astype(np.uint64)[canvas.owner[:, 2:-2, 2:-2]]
        return Region(canvas.develop(cues)[:, 2:-2, 2:-2].copy(), labels, neurons)


def _whole(name: str, value: object, least: int) -> np.ndarray:
    """Check three whole numbers (z, y, x) from ``least`` to ``LIMIT``; return them as int64."""
    values = list(value) if isinstance(value, (tuple, list, np.ndarray)) else []
    if len(values) != 3 or not all(
        isinstance(v, Integral) and not isinstance(v, bool) and least <= int(v) <= LIMIT
        for v in values
    ):
        raise InputError(
            f"{name} is {value!r}; expected three whole numbers >= {least} and <= {LIMIT} (z, y, x)"
        )
    return np.array([int(v) for v in values], np.int64)


def _stamp(labels: np.ndarray, mask: np.ndarray, start: np.ndarray, label: int) -> None:
    """Write a label where a mask, placed at ``start`` (voxels), overlaps the array."""
    lo = np.maximum(start, 0)
    hi = np.minimum(start + mask.shape, labels.shape)
    if (lo < hi).all():
        part = tuple(slice(a, b) for a, b in zip(lo, hi, strict=True))
        inner = tuple(slice(a, b) for a, b in zip(lo - start, hi - start, strict=True))
        labels[part][mask[inner]] = label
