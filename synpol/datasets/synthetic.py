"""Synthetic electron-microscopy volume with known synaptic polarity, made block by block.

Why it exists: the demo, the tests and the benchmark need raw data with an exact answer, of any
size, on any machine, without a download. The volume has no stored array. Every grey value and
every label follows from ``(seed, position)``, so a region cut from a larger region equals, byte
for byte, the same region made alone, and workers can each make their own block.

What was decided:

* Geometry is defined in nanometres. The same seed at another voxel size shows the same tissue.
  Only section jumps and sensor noise belong to the voxel grid, and the rule that drops a synapse
  with a side under ``MIN_SIDE_VOXELS`` voxels is judged there as well.
* Neurites are the Voronoi cells of randomly oriented capsules in a smoothly warped space. This
  gives curved membranes, and mitochondria that follow their neurite.
* Objects come from jittered lattices. Which of two close synapses stays is decided by hashed
  priorities in two local rounds, so the answer depends on a bounded neighbourhood only.
* Random numbers are integer hashes of lattice coordinates. Array arithmetic is element by element
  with finite supports (no FFT, no matrix product, no transcendental function), relative to
  origins that do not move with the region; overlapping objects are painted in lattice order.
* Grey level alone must not give polarity away: the vesicles of the pre side darken it about as
  much as the density darkens the post side.

Axis order is z, y, x everywhere; z runs across sections.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

MIN_SYNAPSE_DISTANCE = 560.0  # nm between synapse centres
MIN_SIDE_VOXELS = 40  # a synapse with a smaller side, at full extent, does not exist
MIN_VESICLES = 8  # a synapse whose cell has room for fewer does not exist
CELL_SPACING = 560.0  # nm, lattice of neurite capsules
SYNAPSE_SPACING = 430.0  # nm, lattice of synapse candidates; also numbers the synapses
DISTRACTOR_SPACING = 370.0  # nm
DISTRACTOR_TO_SYNAPSE = 400.0  # nm, smallest distance
DISTRACTOR_DISTANCE = 320.0  # nm, smallest distance between two distractors
REACH = 450.0  # nm, farthest that anything belonging to a site is painted
MAX_SHIFT = 250.0  # nm, farthest a candidate moves to its membrane, per axis
WARP = ((620.0, 36.0), (170.0, 12.0))  # (wavelength, standard deviation) in nm
NOISE_UNIT = 5.2  # brings spline noise of uniform values to a standard deviation of about 1
MAX_WARP = NOISE_UNIT * sum(deviation for _, deviation in WARP)  # nm, bound per axis
MOVE = MAX_SHIFT + MAX_WARP  # nm, from a candidate's lattice point to its place, per axis
DISTRACTOR_MARGIN = REACH + DISTRACTOR_DISTANCE + MOVE
SYNAPSE_MARGIN = DISTRACTOR_MARGIN + DISTRACTOR_TO_SYNAPSE + 3 * MIN_SYNAPSE_DISTANCE
CELL_MARGIN = SYNAPSE_MARGIN + 1500.0
NUMBER_BITS = 20  # per axis, for the lattice cell inside a synapse number
LIMIT_NM = (2 ** (NUMBER_BITS - 1)) * SYNAPSE_SPACING - 10_000.0
STEP = np.uint64(0x9E3779B97F4A7C15)


# ---------------------------------------------------------------- hashes and smooth noise


def _mix(h: np.ndarray) -> np.ndarray:
    """Scramble uint64 values (the splitmix64 finaliser), same shape."""
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))


def _hash(key: np.ndarray, *coords: np.ndarray) -> np.ndarray:
    """Hash integer coordinates (broadcast together) under a key, uint64."""
    for c in coords:
        key = _mix(key + np.asarray(c, np.int64).astype(np.uint64) * STEP + STEP)
    return key


def _key(seed: int, name: str) -> np.ndarray:
    """Return the uint64 key, shape (1,), of one named random process of one seed."""
    parts = [seed & (2**32 - 1), seed >> 32, *name.encode()]
    return _hash(np.zeros(1, np.uint64), *(np.array([part]) for part in parts))


def _uniform(h: np.ndarray, count: int) -> np.ndarray:
    """Draw ``count`` numbers in [0, 1) from each hash: shape ``h.shape + (count,)``."""
    drawn = _mix(h[..., None] + np.arange(1, count + 1, dtype=np.uint64) * STEP)
    return (drawn >> np.uint64(11)) * 2.0**-53


def _bell(h: np.ndarray) -> np.ndarray:
    """Turn each hash into a near-normal float32 (mean 0, deviation 1, within 3.47)."""
    total = (h & np.uint64(0xFFFF)) + (h >> np.uint64(48))
    for shift in (16, 32):
        total += (h >> np.uint64(shift)) & np.uint64(0xFFFF)
    return (total.astype(np.float32) - np.float32(131070)) * np.float32(3**0.5 / 65536)


def _taps(coords: np.ndarray, wavelength: float) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the first lattice index and the four cubic B-spline weights of each coordinate."""
    t = coords / wavelength
    base = np.floor(t)
    f = t - base
    g, f2 = 1 - f, f * f
    f3 = f2 * f
    weights = [g * g * g, 3 * f3 - 6 * f2 + 4, 3 * (f2 + f - f3) + 1, f3]
    return base.astype(np.int64) - 1, [w / 6 for w in weights]


def _noise_lattice(key: np.ndarray, bases: list[np.ndarray]) -> tuple[np.ndarray, list[int]]:
    """Hash the lattice values (float32 in [-1, 1)) under all taps, with their first indices."""
    first = [int(b.min()) for b in bases]
    axes = np.ix_(*(np.arange(lo, int(b.max()) + 4) for lo, b in zip(first, bases, strict=True)))
    h = _hash(key.reshape(1, 1, 1), *axes)
    return (h >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-23) - 1, first


def _grid_noise(
    key: np.ndarray, axes: list[np.ndarray], wavelength: float | tuple[float, float, float]
) -> np.ndarray:
    """Smooth noise (float32, deviation about 1) on the grid of three axes in nm."""
    lengths = wavelength if isinstance(wavelength, tuple) else (wavelength,) * 3
    taps = [_taps(a, length) for a, length in zip(axes, lengths, strict=True)]
    values, first = _noise_lattice(key, [base for base, _ in taps])
    values *= np.float32(NOISE_UNIT)
    for axis, (base, weights) in enumerate(taps):
        shape = [-1 if i == axis else 1 for i in range(3)]
        out = None
        for k in range(4):
            part = np.take(values, base - first[axis] + k, axis=axis)
            part *= weights[k].astype(np.float32).reshape(shape)
            out = part if out is None else np.add(out, part, out=out)
        values = out
    return values


def _warp_grid(seed: int, axes: list[np.ndarray]) -> list[np.ndarray]:
    """Displacement in nm along z, y, x (float32) on the grid of three axes in nm."""
    out = []
    for axis in "zyx":
        parts = [
            _grid_noise(_key(seed, f"warp{axis}{i}"), axes, length) * np.float32(deviation)
            for i, (length, deviation) in enumerate(WARP)
        ]
        out.append(parts[0] + parts[1])
    return out


def _warp_points(seed: int, p: np.ndarray) -> np.ndarray:
    """Displacement in nm, shape (n, 3), at points (n, 3) in nm."""
    out = np.zeros_like(p)
    if not len(p):
        return out
    for i, (length, deviation) in enumerate(WARP):
        taps = [_taps(p[:, axis], length) for axis in range(3)]
        (z, wz), (y, wy), (x, wx) = taps
        for axis, name in enumerate("zyx"):
            lattice, first = _noise_lattice(_key(seed, f"warp{name}{i}"), [z, y, x])
            for a in range(4):
                for b in range(4):
                    for c in range(4):
                        v = lattice[z - first[0] + a, y - first[1] + b, x - first[2] + c]
                        out[:, axis] += v * (wz[a] * wy[b] * wx[c] * NOISE_UNIT * deviation)
    return out


def _jittered_lattice(
    key: np.ndarray, lo: np.ndarray, hi: np.ndarray, spacing: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells (n, 3), points (n, 3) in nm and hashes (n,) of a jittered lattice over a box."""
    ranges = [
        np.arange(math.floor(a / spacing), math.floor(b / spacing) + 1)
        for a, b in zip(lo, hi, strict=True)
    ]
    cells = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3)
    h = _hash(key, cells[:, 0], cells[:, 1], cells[:, 2])
    return cells, (cells + 0.05 + 0.9 * _uniform(h, 3)) * spacing, _mix(h ^ STEP)


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Scalar product over the last axis (length 3), in a fixed order of additions."""
    return a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1] + a[..., 2] * b[..., 2]


def _unit(v: np.ndarray) -> np.ndarray:
    """Scale vectors on the last axis to length 1."""
    return v / np.maximum(np.sqrt(_dot(v, v)), 1e-6)[..., None]


# ---------------------------------------------------------------- neurites


class _Neurites:
    """Capsules of the neurites around a box (nm); the nearest capsule owns a warped point."""

    def __init__(self, seed: int, lo: np.ndarray, hi: np.ndarray) -> None:
        self.seed = seed
        _, self.centre, self.hash = _jittered_lattice(_key(seed, "cell"), lo, hi, CELL_SPACING)
        u = _uniform(self.hash, 8)
        axis = _bell(_mix(self.hash[:, None] + np.arange(1, 4, dtype=np.uint64)))
        self.axis = _unit(axis.astype(np.float64))
        self.half = 520.0 * u[:, 0] * u[:, 0]
        self.radius = 190.0 * u[:, 1]
        self.shade = (0.10 * (u[:, 2] + u[:, 3] - 1)).astype(np.float32)
        self.tree = cKDTree(self.centre)

    def distance(self, q: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return distances (n, k) in nm and outward unit vectors (n, k, 3) to cells (n, k)."""
        d = q[:, None] - self.centre[cells]
        axis, half = self.axis[cells], self.half[cells]
        d = d - np.clip(_dot(d, axis), -half, half)[..., None] * axis
        return np.sqrt(_dot(d, d)) - self.radius[cells], _unit(d)

    def nearest(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Three nearest cells of warped points (n, 3): indices, distances, unit vectors."""
        cells = self.tree.query(q, k=24)[1]
        s, n = self.distance(q, cells)
        order = np.argsort(s, axis=1, kind="stable")[:, :3]
        rows = np.arange(len(q))[:, None]
        return cells[rows, order], s[rows, order], n[rows, order]

    def owner(self, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cell (n,) and distance to its membrane in nm (n,) of points (n, 3) in nm."""
        cells, s, n = self.nearest(p + _warp_points(self.seed, p))
        gradient = n[:, 1] - n[:, 0]
        slope = np.sqrt(_dot(gradient, gradient))
        return cells[:, 0], (s[:, 1] - s[:, 0]) / np.maximum(slope, 0.3)

    def unwarp(self, q: np.ndarray) -> np.ndarray:
        """Points (n, 3) in nm whose warped position is q."""
        p = q
        for _ in range(9):
            p = q - _warp_points(self.seed, p)
        return p

    def parameters(self, cells: np.ndarray | int, origin: np.ndarray) -> list[np.ndarray]:
        """Return the eight float32 numbers of capsules, centres (nm) relative to origin."""
        table = [*(self.centre[cells] - origin).T, *self.axis[cells].T]
        return [np.float32(a) for a in (*table, self.half[cells], self.radius[cells])]

    def membrane_depth(
        self, inner: int, outer: int, q: list[np.ndarray], origin: np.ndarray
    ) -> np.ndarray:
        """Signed depth (float32, nm) into ``inner`` from its membrane with ``outer``."""
        s1, n1 = _capsule(self.parameters(inner, origin), q)
        s2, n2 = _capsule(self.parameters(outer, origin), q)
        return (s2 - s1) / _slope(n1, n2)[1]

    def tile(self, q: list[np.ndarray], origin: np.ndarray) -> tuple[np.ndarray, ...]:
        """Owner (int32), membrane distance (nm) and z-tilt of the membrane (0..1) at q.

        ``q`` holds three float32 arrays of warped positions in nm, relative to ``origin``.
        Which capsules are tried depends on q, but always includes the nearest two.
        """
        low, high = (np.array([f(a) for a in q], np.float64) for f in (np.min, np.max))
        middle = origin + (low + high) / 2
        slack = math.sqrt(_dot(high - low, high - low)) + 1
        around = np.array(self.tree.query_ball_point(middle, 2000.0 + slack, return_sorted=True))
        rough = self.distance(middle[None], around[None])[0][0]
        cells = around[rough <= np.partition(rough, 1)[1] + slack]
        table = self.parameters(cells, origin)
        first = np.full(q[0].shape, np.inf, np.float32)
        second = first.copy()
        owner, other = np.zeros((2, *first.shape), np.int32)
        for i in range(len(cells)):
            s = _capsule([a[i] for a in table], q)[0]
            closer, runner = s < first, s < second
            for best, value in ((second, s), (other, i)):
                np.copyto(best, value, where=runner)
            for best, value in ((second, first), (other, owner), (first, s), (owner, i)):
                np.copyto(best, value, where=closer)
        n1 = _capsule([np.take(a, owner) for a in table], q)[1]
        n2 = _capsule([np.take(a, other) for a in table], q)[1]
        along_z, slope = _slope(n1, n2)
        return cells[owner].astype(np.int32), (second - first) / slope, abs(along_z) / slope


def _capsule(
    parameters: list[np.ndarray], q: list[np.ndarray]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Distance (float32, nm) of q to a capsule, and the unit vector away from it."""
    cz, cy, cx, uz, uy, ux, half, radius = parameters
    dz, dy, dx = q[0] - cz, q[1] - cy, q[2] - cx
    t = np.minimum(np.maximum(dz * uz + dy * uy + dx * ux, -half), half)
    dz, dy, dx = dz - t * uz, dy - t * uy, dx - t * ux
    length = np.sqrt(dz * dz + dy * dy + dx * dx)
    return length - radius, [dz, dy, dx, length]


def _slope(d1: list[np.ndarray], d2: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """How fast the distances to two capsules drift apart: along z, and in total."""
    scale1, scale2 = (1 / np.maximum(d[3], np.float32(1)) for d in (d1, d2))
    gz, gy, gx = (b * scale2 - a * scale1 for a, b in zip(d1[:3], d2[:3], strict=True))
    return gz, np.maximum(np.sqrt(gz * gz + gy * gy + gx * gx), np.float32(0.3))


# ---------------------------------------------------------------- synapses and distractors


@dataclass(frozen=True)
class _Cues:
    """What the difficulty (0..1) sets."""

    vesicles: float  # vesicles drawn per cloud
    cloud: float  # nm, standard deviation of a cloud
    ring: float  # darkness of a vesicle's ring
    density: float  # darkness of a density
    distractors: float  # share of distractor candidates kept
    noise: float  # standard deviation of the sensor noise, in grey levels 0..1
    jump: float  # factor on the section jumps of 6 % gain and 3 % offset

    @classmethod
    def at(cls, difficulty: float) -> _Cues:
        """Interpolate between the easy and the hard value of every field."""
        easy = (120, 75, 0.62, 0.78, 0.5, 0.04, 1.0)
        hard = (75, 92, 0.48, 0.50, 1.0, 0.06, 1.5)
        return cls(*(a + (b - a) * difficulty for a, b in zip(easy, hard, strict=True)))


@dataclass(frozen=True)
class _Sites:
    """Places of synapses or distractors: one row each, in lattice order."""

    cells: np.ndarray  # (n, 3) int, lattice cell
    p: np.ndarray  # (n, 3) nm, a point on the membrane (or inside a cell)
    pre: np.ndarray  # (n,) owner of the vesicles
    post: np.ndarray  # (n,) owner of the density
    normal: np.ndarray  # (n, 3) unit vector from post to pre
    hash: np.ndarray  # (n,) uint64

    def __getitem__(self, rows: np.ndarray) -> _Sites:
        return _Sites(*(getattr(self, f.name)[rows] for f in fields(self)))


def _membrane_sites(
    tissue: _Neurites, name: str, lo: np.ndarray, hi: np.ndarray, spacing: float
) -> _Sites:
    """Lattice points (in warped space) moved to the nearest membrane of two cells."""
    cells, start, h = _jittered_lattice(_key(tissue.seed, name), lo, hi, spacing)
    pair, q = tissue.nearest(start)[0][:, :2], start
    for _ in range(4):
        s, n = tissue.distance(q, pair)
        gradient = n[:, 1] - n[:, 0]
        gap = (s[:, 1] - s[:, 0]) / np.maximum(_dot(gradient, gradient), 0.1)
        q = q - gap[:, None] * gradient
    found, s, n = tissue.nearest(q)
    facing = n[:, 1] - n[:, 0]
    same = (np.sort(found[:, :2], axis=1) == np.sort(pair, axis=1)).all(axis=1)
    good = same & (s[:, 2] - s[:, 0] > 90) & (_dot(facing, facing) > 1.0)
    good &= (abs(q - start) < MAX_SHIFT).all(axis=1)
    flip = (h & np.uint64(1)).astype(bool)
    low, high = np.sort(found[:, :2], axis=1).T
    pre, post = np.where(flip, high, low), np.where(flip, low, high)
    sign = np.where(pre == found[:, 0], 1.0, -1.0)[:, None]
    sites = _Sites(cells, q, pre, post, _unit(facing) * sign, h)[good]
    return replace(sites, p=tissue.unwarp(sites.p))


def _thin(sites: _Sites, distance: float, rounds: int) -> np.ndarray:
    """Return the mask of sites to keep so that they are at least ``distance`` nm apart.

    Each round keeps the open sites whose hash no open neighbour beats and closes their
    neighbours, so a decision depends on nothing farther than ``(2 * rounds - 1) * distance``.
    """
    a, b = cKDTree(sites.p).query_pairs(distance + 1, output_type="ndarray").T
    apart = sites.p[a] - sites.p[b]
    close = _dot(apart, apart) < distance * distance
    a, b = a[close], b[close]
    kept, still_open = np.zeros(len(sites.p), bool), np.ones(len(sites.p), bool)
    for _ in range(rounds):
        beaten = np.zeros_like(kept)
        loser = np.where(sites.hash[a] < sites.hash[b], a, b)
        beaten[loser[still_open[a] & still_open[b]]] = True
        winners = still_open & ~beaten
        kept |= winners
        still_open &= ~winners
        still_open[a[winners[b]]] = False
        still_open[b[winners[a]]] = False
    return kept


def _near_box(p: np.ndarray, lo: np.ndarray, hi: np.ndarray, reach: float) -> np.ndarray:
    """Mask of the points (n, 3) within ``reach`` nm of a box, per axis."""
    return ((p >= lo - reach) & (p <= hi + reach)).all(axis=1)


def _distractors(
    tissue: _Neurites, synapses: _Sites, cues: _Cues, lo: np.ndarray, hi: np.ndarray
) -> tuple[_Sites, np.ndarray]:
    """Return the distractors seen in a box and their kinds.

    Kinds are 0 lone density, 1 thick membrane, 2 lone cloud, 3 dark blob.
    """
    box = (lo - DISTRACTOR_MARGIN, hi + DISTRACTOR_MARGIN, DISTRACTOR_SPACING)
    on = _membrane_sites(tissue, "distractor", *box)
    cells, p, h = _jittered_lattice(_key(tissue.seed, "inside"), *box)
    pre, depth = tissue.owner(p)
    inside = _Sites(cells, p, pre, pre, np.zeros_like(p), h)[depth > 80]
    joined = (np.concatenate([getattr(on, f.name), getattr(inside, f.name)]) for f in fields(on))
    sites = _Sites(*joined)
    u = _uniform(sites.hash, 2)
    is_on = np.arange(len(sites.p)) < len(on.p)
    kinds = np.where(is_on, u[:, 1] > 0.75, 2 + (u[:, 1] > 0.85))
    rows = u[:, 0] < cues.distractors * np.where(is_on, 0.9, 0.65)
    sites, kinds = sites[rows], kinds[rows]
    rows = _thin(sites, DISTRACTOR_DISTANCE, 1)
    rows &= cKDTree(synapses.p).query(sites.p)[0] > DISTRACTOR_TO_SYNAPSE
    rows &= _near_box(sites.p, lo, hi, REACH)
    return sites[rows], kinds[rows]


def _vesicles(
    tissue: _Neurites, sites: _Sites, cues: _Cues, seeded: str, offset: float
) -> list[np.ndarray]:
    """Vesicle centres (k, 3) in nm of each site: a cloud inside the pre cell, not crowded."""
    count = round(cues.vesicles * 1.25)
    h = _hash(_mix(sites.hash + _key(tissue.seed, seeded))[:, None], np.arange(count)[None])
    spread = np.stack([_bell(_mix(h + np.uint64(j + 1))) for j in range(3)], -1)
    p = (sites.p + sites.normal * offset)[:, None] + spread * cues.cloud
    owner, depth = tissue.owner(p.reshape(-1, 3))
    drawn = cues.vesicles * (0.75 + 0.5 * _uniform(sites.hash, 3)[:, 2])
    keep = (owner.reshape(h.shape) == sites.pre[:, None]) & (depth.reshape(h.shape) > 25)
    keep &= (abs(p - sites.p[:, None]) < REACH - 30).all(axis=-1)
    keep &= np.arange(count) < drawn[:, None]
    clouds = []
    for points, inside in zip(p, keep, strict=True):
        points = points[inside]
        apart = points[:, None] - points[None]
        crowded = np.tril(_dot(apart, apart) < 34.0**2, k=-1).any(axis=1)
        clouds.append(points[~crowded])
    return clouds


def _sides(
    tissue: _Neurites, sites: _Sites, row: int, voxel: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Window offset (voxels) and masks of the pre and the post side, at full extent.

    Each side is one face-connected component, and so is their union. Returns None where that
    cannot be had, or where a side has fewer than ``MIN_SIDE_VOXELS`` voxels.
    """
    p, pre, post = sites.p[row], int(sites.pre[row]), int(sites.post[row])
    u = _uniform(sites.hash[row : row + 1], 5)[0]
    radius, deep = 140 + 60 * u[3], 75 + 40 * u[4]
    low = np.ceil((p - radius) / voxel).astype(np.int64)
    high = np.floor((p + radius) / voxel).astype(np.int64) + 1
    axes = [np.arange(a, b) * v for a, b, v in zip(low, high, voxel, strict=True)]
    local = [(a - c).astype(np.float32) for a, c in zip(np.ix_(*axes), p, strict=True)]
    q = [a + b for a, b in zip(local, _warp_grid(tissue.seed, axes), strict=True)]
    owner = tissue.tile(q, p)[0]
    depth = tissue.membrane_depth(pre, post, q, p)
    off = sum(a * a for a in local)
    near = (off <= np.float32(radius * radius)) & (abs(depth) <= deep)
    masks = []
    for cell in (pre, post):
        parts, count = ndimage.label(near & (owner == cell))
        if not count:
            return None
        mask = parts == parts.flat[np.argmin(np.where(parts > 0, off, np.inf))]
        masks.append(mask)
    small = min(mask.sum() for mask in masks) < MIN_SIDE_VOXELS
    if small or ndimage.label(masks[0] | masks[1])[1] > 1:
        return None
    return low, masks[0], masks[1]


# ---------------------------------------------------------------- painting


class _Canvas:
    """Grey values (float32, 0..1) of one box of voxels while they are painted."""

    def __init__(
        self, tissue: _Neurites, low: np.ndarray, shape: np.ndarray, voxel: np.ndarray
    ) -> None:
        self.tissue, self.low, self.shape, self.voxel = tissue, low, shape, voxel
        self.axes = [
            np.arange(a, a + n) * float(v) for a, n, v in zip(low, shape, voxel, strict=True)
        ]
        self.warp = _warp_grid(tissue.seed, self.axes)
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
        """Named smooth noise on this box."""
        return _grid_noise(_key(self.tissue.seed, name), self.axes, wavelength)

    def within(
        self, start: np.ndarray, stop: np.ndarray, origin: np.ndarray, warped: bool
    ) -> tuple[tuple[slice, ...] | None, list[np.ndarray]]:
        """Return slices of a voxel range cut to this box, and positions there relative to origin.

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
        """Do the same for the voxels within ``reach`` nm of a point, relative to it."""
        start = np.ceil((p - reach) / self.voxel).astype(np.int64)
        stop = np.floor((p + reach) / self.voxel).astype(np.int64) + 1
        return self.within(start, stop, p, warped)

    def _cytoplasm(self) -> np.ndarray:
        """Cytoplasm with its texture, sheets of endoplasmic reticulum, and the membranes."""
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
            for a, w in zip(q, _warp_points(self.tissue.seed, p[None])[0], strict=True)
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

    def density(self, sites: _Sites, row: int, darkness: float, thick: bool) -> None:
        """Paint a density with its thin pre partner, or a membrane thick on both sides."""
        p, pre, post = sites.p[row], int(sites.pre[row]), int(sites.post[row])
        part, q = self.around(p, 215.0, warped=True)
        if part is None:
            return
        u = _uniform(sites.hash[row : row + 1], 6)[0, 5]
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

    def develop(self, cues: _Cues) -> np.ndarray:
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
        noise = _bell(_hash(_key(seed, "sensor").reshape(1, 1, 1), *index))
        gain = 1 + _bell(_hash(_key(seed, "gain"), index[0])) * np.float32(0.06 * cues.jump)
        shift = _bell(_hash(_key(seed, "offset"), index[0])) * np.float32(0.03 * cues.jump)
        grey = (grey + noise * np.float32(cues.noise)) * gain + shift
        return np.rint(np.clip(grey, 0, 1) * np.float32(255)).astype(np.uint8)


def _bump(x: np.ndarray) -> np.ndarray:
    """Soft bump with finite support: 1 at x = 0, 0 from x = 1 on (x is a squared distance)."""
    rest = np.maximum(1 - x, np.float32(0))
    return rest * rest


def _paint_mitochondria(canvas: _Canvas, lo: np.ndarray, hi: np.ndarray) -> None:
    """Paint the mitochondria of all neurites near the box."""
    tissue = canvas.tissue
    rows = np.flatnonzero(_near_box(tissue.centre, lo, hi, 1400.0))
    u = _uniform(_mix(tissue.hash[rows]), 4)
    along = (2 * u[:, 1] - 1) * tissue.half[rows]
    p = tissue.unwarp(tissue.centre[rows] + along[:, None] * tissue.axis[rows])
    for row in np.flatnonzero(u[:, 0] < 0.38):
        length, width = 170 + 260 * u[row, 2], 95 + 75 * u[row, 3]
        canvas.mitochondrion(int(rows[row]), p[row], length, width)


def _number(cells: np.ndarray) -> np.ndarray:
    """Synapse numbers (int64, >= 1, below 2**60 + 1) of lattice cells (n, 3)."""
    z, y, x = (cells + 2 ** (NUMBER_BITS - 1)).T
    return 1 + (z << (2 * NUMBER_BITS)) + (y << NUMBER_BITS) + x


# ---------------------------------------------------------------- the volume


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
        The one knob, 0 (easy, the demo) to 1 (hard, the benchmark). From 0 to 1, in proportion:
        vesicles per cloud and the contrast of vesicles and densities fall by a quarter to a
        third, clouds spread, distractors (lone clouds, lone densities, thick membranes, dark
        blobs) nearly double, and sensor noise and section jumps grow by half. The tissue and the
        candidate synapses stay the same.
    """

    voxel_size: tuple[int, int, int] = (30, 16, 16)
    seed: int = 0
    difficulty: float = 0.0

    def __post_init__(self) -> None:
        _whole("voxel_size", self.voxel_size, 1)
        if not isinstance(self.seed, Integral) or not 0 <= self.seed < 2**64:
            raise ValueError(f"seed is {self.seed!r}; expected a whole number from 0 to 2**64 - 1")
        if not isinstance(self.difficulty, Real) or not 0 <= self.difficulty <= 1:
            raise ValueError(f"difficulty is {self.difficulty!r}; expected a number from 0 to 1")

    def region(
        self, offset_vx: tuple[int, int, int], shape_vx: tuple[int, int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
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
        """
        low, shape = _whole("offset_vx", offset_vx, None), _whole("shape_vx", shape_vx, 1)
        voxel, halo = np.array(self.voxel_size, np.int64), np.array([0, 2, 2])
        lo, hi = ((a * voxel).astype(np.float64) for a in (low - halo, low + shape + halo - 1))
        if (lo < -LIMIT_NM).any() or (hi > LIMIT_NM).any():
            raise ValueError(
                f"offset_vx is {tuple(offset_vx)} with shape_vx {tuple(shape_vx)}; expected a "
                f"region within {LIMIT_NM:.0f} nm of the origin along every axis"
            )
        cues, seed = _Cues.at(float(self.difficulty)), int(self.seed)
        tissue = _Neurites(seed, lo - CELL_MARGIN, hi + CELL_MARGIN)
        box = (lo - SYNAPSE_MARGIN, hi + SYNAPSE_MARGIN, SYNAPSE_SPACING)
        synapses = _membrane_sites(tissue, "synapse", *box)
        synapses = synapses[_thin(synapses, MIN_SYNAPSE_DISTANCE, 2)]
        others, kinds = _distractors(tissue, synapses, cues, lo, hi)
        synapses = synapses[_near_box(synapses.p, lo, hi, REACH)]

        canvas = _Canvas(tissue, low - halo, shape + 2 * halo, voxel)
        _paint_mitochondria(canvas, lo, hi)
        labels = np.zeros(shape, np.uint64)
        numbers = _number(synapses.cells)
        clouds = _vesicles(tissue, synapses, cues, "vesicle", 65.0)
        for row, cloud in enumerate(clouds):
            sides = _sides(tissue, synapses, row, voxel) if len(cloud) >= MIN_VESICLES else None
            if sides is None:
                continue
            canvas.density(synapses, row, cues.density, thick=False)
            for p in cloud:
                canvas.vesicle(p, cues.ring)
            for mask, label in zip(
                sides[1:], (2 * numbers[row] - 1, 2 * numbers[row]), strict=True
            ):
                _stamp(labels, mask, sides[0] - low, label)
        for row in np.flatnonzero(kinds < 2):
            canvas.density(others, row, cues.density, thick=bool(kinds[row] == 1))
        for cloud in _vesicles(tissue, others[kinds == 2], cues, "lone", 0.0):
            for p in cloud:
                canvas.vesicle(p, cues.ring)
        blobs = others[kinds == 3]
        for p, u in zip(blobs.p, _uniform(blobs.hash, 4)[:, 3], strict=True):
            canvas.blob(p, 30 + 40 * u)
        return canvas.develop(cues)[:, 2:-2, 2:-2].copy(), labels


def _whole(name: str, value: object, least: int | None) -> np.ndarray:
    """Check three whole numbers (z, y, x), each at least ``least``; return them as int64."""
    what = "whole numbers" if least is None else f"whole numbers >= {least}"
    good = isinstance(value, (tuple, list, np.ndarray)) and len(value) == 3
    if not good or not all(
        isinstance(v, Integral) and not isinstance(v, bool) and (least is None or v >= least)
        for v in value
    ):
        raise ValueError(f"{name} is {value!r}; expected three {what} (z, y, x)")
    return np.array([int(v) for v in value], np.int64)


def _stamp(labels: np.ndarray, mask: np.ndarray, start: np.ndarray, label: int) -> None:
    """Write a label where a mask, placed at ``start`` (voxels), overlaps the array."""
    lo = np.maximum(start, 0)
    hi = np.minimum(start + mask.shape, labels.shape)
    if (lo < hi).all():
        part = tuple(slice(a, b) for a, b in zip(lo, hi, strict=True))
        inner = tuple(slice(a, b) for a, b in zip(lo - start, hi - start, strict=True))
        labels[part][mask[inner]] = label
