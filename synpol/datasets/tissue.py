"""Geometry of the synthetic tissue in nanometres: neurites, membrane sites, vesicles, sides.

Nothing here is painted, and only ``side_masks`` knows voxels. Neurites are the Voronoi cells of
randomly oriented capsules in a smoothly warped space. Sites of synapses and distractors come from
jittered lattices and are thinned by hashed priorities in a bounded number of local rounds, so
everything depends on a bounded neighbourhood only (the ``*_MARGIN`` below say how large), and
positions are taken relative to origins that do not move with the region that is asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from synpol.datasets.noise import (
    NOISE_UNIT,
    bell,
    grid_noise,
    hash_at,
    jittered_lattice,
    key_of,
    mix,
    noise_lattice,
    spline_taps,
    uniform,
)

MIN_SYNAPSE_DISTANCE = 560.0  # nm between synapse centres
MIN_SIDE_VOXELS = 40  # a synapse with a smaller side, at full extent, does not exist
CELL_SPACING = 560.0  # nm, lattice of neurite capsules
SYNAPSE_SPACING = 430.0  # nm, lattice of synapse candidates; also numbers the synapses
DISTRACTOR_SPACING = 370.0  # nm
DISTRACTOR_TO_SYNAPSE = 400.0  # nm, smallest distance
DISTRACTOR_DISTANCE = 320.0  # nm, smallest distance between two distractors
REACH = 450.0  # nm, farthest that anything belonging to a site is painted
MAX_SHIFT = 250.0  # nm, farthest a candidate moves to its membrane, per axis
WARP = ((620.0, 36.0), (170.0, 12.0))  # (wavelength, standard deviation) in nm
MAX_WARP = NOISE_UNIT * sum(deviation for _, deviation in WARP)  # nm, bound per axis
MOVE = MAX_SHIFT + MAX_WARP  # nm, from a candidate's lattice point to its place, per axis
DISTRACTOR_MARGIN = REACH + DISTRACTOR_DISTANCE + MOVE
SYNAPSE_MARGIN = DISTRACTOR_MARGIN + DISTRACTOR_TO_SYNAPSE + 3 * MIN_SYNAPSE_DISTANCE
CELL_MARGIN = SYNAPSE_MARGIN + 1500.0


def warp_grid(seed: int, axes: list[np.ndarray]) -> list[np.ndarray]:
    """Return the displacement in nm along z, y, x (float32) on the grid of three axes in nm."""
    out = []
    for axis in "zyx":
        parts = [
            grid_noise(key_of(seed, f"warp{axis}{i}"), axes, length) * np.float32(deviation)
            for i, (length, deviation) in enumerate(WARP)
        ]
        out.append(parts[0] + parts[1])
    return out


def warp_points(seed: int, p: np.ndarray) -> np.ndarray:
    """Return the displacement in nm, shape (n, 3), at points (n, 3) in nm."""
    out = np.zeros_like(p)
    if not len(p):
        return out
    for i, (length, deviation) in enumerate(WARP):
        taps = [spline_taps(p[:, axis], length) for axis in range(3)]
        (z, wz), (y, wy), (x, wx) = taps
        for axis, name in enumerate("zyx"):
            lattice, first = noise_lattice(key_of(seed, f"warp{name}{i}"), [z, y, x])
            for a in range(4):
                for b in range(4):
                    for c in range(4):
                        v = lattice[z - first[0] + a, y - first[1] + b, x - first[2] + c]
                        out[:, axis] += v * (wz[a] * wy[b] * wx[c] * NOISE_UNIT * deviation)
    return out


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the scalar product over the last axis (length 3), added in a fixed order."""
    return a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1] + a[..., 2] * b[..., 2]


def unit(v: np.ndarray) -> np.ndarray:
    """Scale vectors on the last axis to length 1."""
    return v / np.maximum(np.sqrt(dot(v, v)), 1e-6)[..., None]


# ---------------------------------------------------------------- neurites


class Neurites:
    """Capsules of the neurites around a box; the nearest capsule owns a warped point.

    Parameters
    ----------
    seed : int
        World number.
    lo, hi : (3,) float
        Corners of the box in nm.

    Attributes
    ----------
    lattice : (n, 3) int
        Lattice cells of the capsules.
    centre : (n, 3) float
        Centres in nm.
    hash : (n,) uint64
        Hash of each capsule.
    axis : (n, 3) float
        Unit vectors along the capsules.
    half, radius : (n,) float
        Half lengths and radii in nm.
    shade : (n,) float32
        Difference of the cytoplasm's grey value from the mean.
    tree : cKDTree
        Index of the centres.
    """

    def __init__(self, seed: int, lo: np.ndarray, hi: np.ndarray) -> None:
        self.seed = seed
        self.lattice, self.centre, self.hash = jittered_lattice(
            key_of(seed, "cell"), lo, hi, CELL_SPACING
        )
        u = uniform(self.hash, 8)
        axis = bell(mix(self.hash[:, None] + np.arange(1, 4, dtype=np.uint64)))
        self.axis = unit(axis.astype(np.float64))
        self.half = 520.0 * u[:, 0] * u[:, 0]
        self.radius = 190.0 * u[:, 1]
        self.shade = (0.10 * (u[:, 2] + u[:, 3] - 1)).astype(np.float32)
        self.tree = cKDTree(self.centre)

    def distance(self, q: np.ndarray, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return distances (n, k) in nm and outward unit vectors (n, k, 3) to cells (n, k)."""
        d = q[:, None] - self.centre[cells]
        axis, half = self.axis[cells], self.half[cells]
        d = d - np.clip(dot(d, axis), -half, half)[..., None] * axis
        return np.sqrt(dot(d, d)) - self.radius[cells], unit(d)

    def nearest(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find the three nearest cells of warped points: indices, distances, unit vectors."""
        cells = self.tree.query(q, k=24)[1]
        s, n = self.distance(q, cells)
        order = np.argsort(s, axis=1, kind="stable")[:, :3]
        rows = np.arange(len(q))[:, None]
        return cells[rows, order], s[rows, order], n[rows, order]

    def owner(self, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find the cell (n,) of points (n, 3) in nm, and how far its membrane is in nm (n,)."""
        cells, s, n = self.nearest(p + warp_points(self.seed, p))
        gradient = n[:, 1] - n[:, 0]
        slope = np.sqrt(dot(gradient, gradient))
        return cells[:, 0], (s[:, 1] - s[:, 0]) / np.maximum(slope, 0.3)

    def unwarp(self, q: np.ndarray) -> np.ndarray:
        """Find the points (n, 3) in nm whose warped positions are q."""
        p = q
        for _ in range(9):
            p = q - warp_points(self.seed, p)
        return p

    def parameters(self, cells: np.ndarray | int, origin: np.ndarray) -> list[np.ndarray]:
        """Return the eight float32 numbers of capsules, centres (nm) relative to origin."""
        table = [*(self.centre[cells] - origin).T, *self.axis[cells].T]
        return [np.asarray(a, np.float32) for a in (*table, self.half[cells], self.radius[cells])]

    def membrane_depth(
        self, inner: int, outer: int, q: list[np.ndarray], origin: np.ndarray
    ) -> np.ndarray:
        """Return the signed depth (float32, nm) in ``inner`` from its membrane with ``outer``."""
        s1, n1 = capsule(self.parameters(inner, origin), q)
        s2, n2 = capsule(self.parameters(outer, origin), q)
        return (s2 - s1) / drift(n1, n2)[1]

    def tile(self, q: list[np.ndarray], origin: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return owner (int32), membrane distance (nm) and z-tilt of the membrane (0..1) at q.

        ``q`` holds three float32 arrays of warped positions in nm, relative to ``origin``.
        Which capsules are tried depends on q, but always includes the nearest two.
        """
        low, high = (np.array([f(a) for a in q], np.float64) for f in (np.min, np.max))
        middle = origin + (low + high) / 2
        slack = math.sqrt(dot(high - low, high - low)) + 1
        around = np.array(self.tree.query_ball_point(middle, 2000.0 + slack, return_sorted=True))
        rough = self.distance(middle[None], around[None])[0][0]
        cells = around[rough <= np.partition(rough, 1)[1] + slack]
        table = self.parameters(cells, origin)
        first = np.full(q[0].shape, np.inf, np.float32)
        second = first.copy()
        owner, other = np.zeros((2, *first.shape), np.int32)
        for i in range(len(cells)):
            s = capsule([a[i] for a in table], q)[0]
            closer, runner = s < first, s < second
            for best, value in ((second, s), (other, i)):
                np.copyto(best, value, where=runner)
            for best, value in ((second, first), (other, owner), (first, s), (owner, i)):
                np.copyto(best, value, where=closer)
        n1 = capsule([np.take(a, owner) for a in table], q)[1]
        n2 = capsule([np.take(a, other) for a in table], q)[1]
        along_z, slope = drift(n1, n2)
        return cells[owner].astype(np.int32), (second - first) / slope, abs(along_z) / slope


def capsule(
    parameters: list[np.ndarray], q: list[np.ndarray]
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the distance (float32, nm) of q to a capsule, and the vector away from its axis.

    The vector comes as z, y, x and its length.
    """
    cz, cy, cx, uz, uy, ux, half, radius = parameters
    dz, dy, dx = q[0] - cz, q[1] - cy, q[2] - cx
    t = np.minimum(np.maximum(dz * uz + dy * uy + dx * ux, -half), half)
    dz, dy, dx = dz - t * uz, dy - t * uy, dx - t * ux
    length = np.sqrt(dz * dz + dy * dy + dx * dx)
    return length - radius, [dz, dy, dx, length]


def drift(d1: list[np.ndarray], d2: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return how fast the distances to two capsules drift apart: along z, and in total."""
    scale1, scale2 = (1 / np.maximum(d[3], np.float32(1)) for d in (d1, d2))
    gz, gy, gx = (b * scale2 - a * scale1 for a, b in zip(d1[:3], d2[:3], strict=True))
    return gz, np.maximum(np.sqrt(gz * gz + gy * gy + gx * gx), np.float32(0.3))


# ---------------------------------------------------------------- synapses and distractors


@dataclass(frozen=True)
class Cues:
    """Values that the difficulty (0..1) sets."""

    vesicles: float  # vesicles drawn per cloud
    cloud: float  # nm, standard deviation of a cloud
    ring: float  # darkness of a vesicle's ring
    density: float  # darkness of a density
    distractors: float  # share of distractor candidates kept
    noise: float  # standard deviation of the sensor noise, in grey levels 0..1
    jump: float  # factor on the section jumps of 6 % gain and 3 % offset

    @classmethod
    def at(cls, difficulty: float) -> Cues:
        """Interpolate between the easy and the hard value of every field."""
        easy = (120, 75, 0.62, 0.78, 0.5, 0.04, 1.0)
        hard = (75, 92, 0.48, 0.50, 1.0, 0.06, 1.5)
        return cls(*(a + (b - a) * difficulty for a, b in zip(easy, hard, strict=True)))


@dataclass(frozen=True)
class Sites:
    """Places of synapses or distractors: one row each, in lattice order."""

    cells: np.ndarray  # (n, 3) int, lattice cell
    p: np.ndarray  # (n, 3) nm, a point on the membrane (or inside a cell)
    pre: np.ndarray  # (n,) owner of the vesicles
    post: np.ndarray  # (n,) owner of the density
    normal: np.ndarray  # (n, 3) unit vector from post to pre
    hash: np.ndarray  # (n,) uint64

    def __getitem__(self, rows: np.ndarray) -> Sites:
        return Sites(*(getattr(self, f.name)[rows] for f in fields(self)))


def membrane_sites(
    tissue: Neurites, name: str, lo: np.ndarray, hi: np.ndarray, spacing: float
) -> Sites:
    """Move lattice points (in warped space) to the nearest membrane of two cells."""
    cells, start, h = jittered_lattice(key_of(tissue.seed, name), lo, hi, spacing)
    pair, q = tissue.nearest(start)[0][:, :2], start
    for _ in range(4):
        s, n = tissue.distance(q, pair)
        gradient = n[:, 1] - n[:, 0]
        gap = (s[:, 1] - s[:, 0]) / np.maximum(dot(gradient, gradient), 0.1)
        q = q - gap[:, None] * gradient
    found, s, n = tissue.nearest(q)
    facing = n[:, 1] - n[:, 0]
    same = (np.sort(found[:, :2], axis=1) == np.sort(pair, axis=1)).all(axis=1)
    good = same & (s[:, 2] - s[:, 0] > 90) & (dot(facing, facing) > 1.0)
    good &= (abs(q - start) < MAX_SHIFT).all(axis=1)
    flip = (h & np.uint64(1)).astype(bool)
    low, high = np.sort(found[:, :2], axis=1).T
    pre, post = np.where(flip, high, low), np.where(flip, low, high)
    sign = np.where(pre == found[:, 0], 1.0, -1.0)[:, None]
    sites = Sites(cells, q, pre, post, unit(facing) * sign, h)[good]
    return replace(sites, p=tissue.unwarp(sites.p))


def thin_out(sites: Sites, distance: float, rounds: int) -> np.ndarray:
    """Return the mask of sites to keep so that they are at least ``distance`` nm apart.

    Each round keeps the open sites whose hash no open neighbour beats and closes their
    neighbours, so a decision depends on nothing farther than ``(2 * rounds - 1) * distance``.
    """
    a, b = cKDTree(sites.p).query_pairs(distance + 1, output_type="ndarray").T
    apart = sites.p[a] - sites.p[b]
    close = dot(apart, apart) < distance * distance
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


def near_box(p: np.ndarray, lo: np.ndarray, hi: np.ndarray, reach: float) -> np.ndarray:
    """Return the mask of the points (n, 3) within ``reach`` nm of a box along every axis."""
    return ((p >= lo - reach) & (p <= hi + reach)).all(axis=1)


def distractor_sites(
    tissue: Neurites, synapses: Sites, cues: Cues, lo: np.ndarray, hi: np.ndarray
) -> tuple[Sites, np.ndarray]:
    """Return the distractors seen in a box and their kinds.

    Kinds are 0 lone density, 1 thick membrane, 2 lone cloud, 3 dark blob.
    """
    box = (lo - DISTRACTOR_MARGIN, hi + DISTRACTOR_MARGIN, DISTRACTOR_SPACING)
    on = membrane_sites(tissue, "distractor", *box)
    cells, p, h = jittered_lattice(key_of(tissue.seed, "inside"), *box)
    pre, depth = tissue.owner(p)
    inside = Sites(cells, p, pre, pre, np.zeros_like(p), h)[depth > 80]
    joined = (np.concatenate([getattr(on, f.name), getattr(inside, f.name)]) for f in fields(on))
    sites = Sites(*joined)
    u = uniform(sites.hash, 2)
    is_on = np.arange(len(sites.p)) < len(on.p)
    kinds = np.where(is_on, u[:, 1] > 0.75, 2 + (u[:, 1] > 0.85))
    rows = u[:, 0] < cues.distractors * np.where(is_on, 0.9, 0.65)
    sites, kinds = sites[rows], kinds[rows]
    rows = thin_out(sites, DISTRACTOR_DISTANCE, 1)
    rows &= cKDTree(synapses.p).query(sites.p)[0] > DISTRACTOR_TO_SYNAPSE
    rows &= near_box(sites.p, lo, hi, REACH)
    return sites[rows], kinds[rows]


def vesicle_positions(
    tissue: Neurites, sites: Sites, cues: Cues, seeded: str, offset: float
) -> list[np.ndarray]:
    """Draw vesicle centres (k, 3) in nm for each site: an uncrowded cloud in the pre cell."""
    count = round(cues.vesicles * 1.25)
    h = hash_at(mix(sites.hash + key_of(tissue.seed, seeded))[:, None], np.arange(count)[None])
    spread = np.stack([bell(mix(h + np.uint64(j + 1))) for j in range(3)], -1)
    p = (sites.p + sites.normal * offset)[:, None] + spread * cues.cloud
    owner, depth = tissue.owner(p.reshape(-1, 3))
    drawn = cues.vesicles * (0.75 + 0.5 * uniform(sites.hash, 3)[:, 2])
    keep = (owner.reshape(h.shape) == sites.pre[:, None]) & (depth.reshape(h.shape) > 25)
    keep &= (abs(p - sites.p[:, None]) < REACH - 30).all(axis=-1)
    keep &= np.arange(count) < drawn[:, None]
    clouds = []
    for points, inside in zip(p, keep, strict=True):
        points = points[inside]
        apart = points[:, None] - points[None]
        crowded = np.tril(dot(apart, apart) < 34.0**2, k=-1).any(axis=1)
        clouds.append(points[~crowded])
    return clouds


def side_masks(
    tissue: Neurites, sites: Sites, row: int, voxel: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Return the offset of a window (voxels) and the whole masks of pre and post side in it.

    Each side is one face-connected component, and so is their union. Returns None where that
    cannot be had, or where a side has fewer than ``MIN_SIDE_VOXELS`` voxels.
    """
    p, pre, post = sites.p[row], int(sites.pre[row]), int(sites.post[row])
    u = uniform(sites.hash[row : row + 1], 5)[0]
    radius, deep = 140 + 60 * u[3], 75 + 40 * u[4]
    low = np.ceil((p - radius) / voxel).astype(np.int64)
    high = np.floor((p + radius) / voxel).astype(np.int64) + 1
    axes = [np.arange(a, b) * v for a, b, v in zip(low, high, voxel, strict=True)]
    local = [(a - c).astype(np.float32) for a, c in zip(np.ix_(*axes), p, strict=True)]
    q = [a + b for a, b in zip(local, warp_grid(tissue.seed, axes), strict=True)]
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
