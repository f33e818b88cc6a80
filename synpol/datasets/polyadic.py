"""Insect synapses of the synthetic tissue: a T-bar, and several thin post profiles opposite it.

At the site of a synapse, one to six capsules are cut out of whatever lies opposite the pre cell.
Each is a neurite of its own, as thin as the post profiles of insects, and ends within ``BALL`` of
the site, so two sites never share a voxel. All that is said of a site comes from a window of voxels
around it, which does not depend on the region that is asked for.

Distances follow tables of real links: about 130 nm between neighbouring posts, and 200 nm between
the two ends of a link.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from synpol.datasets.noise import STEP, bell, mix, uniform
from synpol.datasets.tissue import (
    MIN_SIDE_VOXELS,
    Neurites,
    Sites,
    capsule,
    dot,
    drift,
    unit,
    warp_grid,
    warp_points,
)

MOST_POSTS = 6
SPACING = 130.0  # nm, between neighbouring posts
BALL = 270.0  # nm, farthest that a post profile lies from its site; under half of their distance
RIM = 60.0  # nm, farthest that the membrane of a profile is seen outside of it
PRE_POINT = 90.0  # nm, depth of the pre end of links: the platform of the T-bar
CLOUD_OFFSET = 100.0  # nm, from the site to the middle of its vesicles
MIN_POST_VOXELS = 15  # a post with a smaller side does not exist
SILENT = 0.15  # share of sites with thin profiles but without a synapse
#: share of sites with at most 1, 2, ... posts, before those without room are dropped
POSTS = np.array([0.08, 0.25, 0.48, 0.70, 0.87])


@dataclass(frozen=True)
class Profiles:
    """Thin post profiles of one site, in a window of voxels.

    Attributes
    ----------
    low : (3,) int
        First voxel of the window.
    owner : (z, y, x) int8
        Profile 1, 2, ... that a voxel lies in, -1 in the pre cell, 0 elsewhere.
    depth, tilt : (z, y, x) float32
        Distance to the nearest membrane of a profile, nm, and how much that faces along z (0..1).
    front : (z, y, x) float32
        Distance to the pre cell in voxels of profiles, nm; infinite elsewhere.
    side : (z, y, x) int8
        Profile 1, 2, ... on its post side, -1 on the pre side, 0 elsewhere.
    kept : tuple of int
        Names of the profiles 1, 2, ..., from 0 to 5; they tell neurons of one site apart.
    shade : (n,) float32
        Difference of each profile's grey value from the mean.
    silent : bool
        Whether this is no synapse.
    """

    low: np.ndarray
    owner: np.ndarray
    depth: np.ndarray
    tilt: np.ndarray
    front: np.ndarray
    side: np.ndarray
    kept: tuple[int, ...]
    shade: np.ndarray
    silent: bool


class TrueLinks(NamedTuple):
    """Links of a region, a row each.

    Attributes
    ----------
    synapse, pre_id, post_id : (n,) uint64
        Number of the synapse (labels 2n-1 and 2n), and the neurons at both ends.
    pre, post : (n, 3) float64
        Places of both ends, middles of voxels; nm, z, y, x.
    """

    synapse: np.ndarray
    pre_id: np.ndarray
    post_id: np.ndarray
    pre: np.ndarray
    post: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[tuple[int, ...]], voxel: np.ndarray) -> TrueLinks:
        """Make links of rows: synapse, neurons, and the voxels of both ends."""
        table = np.array(rows, np.int64).reshape(-1, 9)
        synapse, pre_id, post_id = table[:, :3].T.astype(np.uint64)
        pre, post = ((table[:, k : k + 3] + 0.5) * voxel for k in (3, 6))
        return cls(synapse, pre_id, post_id, pre, post)


@dataclass(frozen=True)
class _Window:
    """Voxels around a site, and what lies there."""

    tissue: Neurites
    p: np.ndarray  # the site, nm
    pre_cell: int
    voxel: np.ndarray
    low: np.ndarray
    off: np.ndarray  # nm from the site
    q: list[np.ndarray]  # warped places relative to the site, nm
    cell: np.ndarray  # owner of each voxel
    pre: np.ndarray  # whether that is the pre cell
    beyond: np.ndarray  # nm to the pre cell, by its voxels


def _window(tissue: Neurites, p: np.ndarray, pre: int, voxel: np.ndarray) -> _Window:
    """Look at the voxels around a site."""
    reach = BALL + RIM
    low = np.ceil((p - reach) / voxel).astype(np.int64)
    high = np.floor((p + reach) / voxel).astype(np.int64) + 1
    axes = [np.arange(a, b) * v for a, b, v in zip(low, high, voxel, strict=True)]
    local = [(a - c).astype(np.float32) for a, c in zip(np.ix_(*axes), p, strict=True)]
    q = [a + b for a, b in zip(local, warp_grid(tissue.seed, axes), strict=True)]
    off = np.sqrt(sum(a * a for a in local))
    cell = np.empty(off.shape, np.int32)
    size = np.maximum(4, 256 // voxel)  # small tiles have few capsules to try
    for index in np.ndindex(*((high - low - 1) // size + 1)):
        part = tuple(slice(i * n, (i + 1) * n) for i, n in zip(index, size.tolist(), strict=True))
        cell[part] = tissue.tile([a[part] for a in q], p)[0]
    away = ndimage.distance_transform_edt(cell != pre, sampling=voxel)
    return _Window(tissue, p, pre, voxel, low, off, q, cell, cell == pre, away)


def profiles_of(tissue: Neurites, sites: Sites, row: int, voxel: np.ndarray) -> Profiles | None:
    """Make the thin post profiles of a site; None where there is no room for a synapse."""
    p, h = sites.p[row], sites.hash[row : row + 1]
    window = _window(tissue, p, int(sites.pre[row]), voxel)
    drawn = uniform(mix(h ^ STEP), 3)[0]
    count = 1 + int((drawn[0] >= POSTS).sum())
    deep = 105 + 30 * drawn[1]
    table = _capsules(tissue, sites, row, count)
    # those without room are left out, and the others get what they leave
    side = _sides(window, _nearest(window, table)[0], deep)
    kept = tuple(k for k in range(count) if (side == k + 1).any())
    if not kept:
        return None
    owner, depth, tilt, front = _nearest(window, [a[list(kept)] for a in table])
    side = _sides(window, owner, deep)
    small = (side < 0).sum() < MIN_SIDE_VOXELS or (side > 0).sum() < MIN_SIDE_VOXELS
    if small or any(not (side == k + 1).any() for k in range(len(kept))):
        return None
    shade = (0.16 * (uniform(mix(h + STEP), MOST_POSTS)[0] - 0.5)).astype(np.float32)
    return Profiles(
        low=window.low,
        owner=owner,
        depth=depth,
        tilt=tilt,
        front=front,
        side=side,
        kept=kept,
        shade=shade[list(kept)],
        silent=bool(drawn[2] < SILENT),
    )


def _capsules(tissue: Neurites, sites: Sites, row: int, count: int) -> list[np.ndarray]:
    """Place the profiles of a site side by side; numbers of capsules relative to the site."""
    h, normal = sites.hash[row : row + 1], sites.normal[row]
    start = warp_points(tissue.seed, sites.p[row : row + 1])[0]
    across = bell(mix(h + np.arange(11, 14, dtype=np.uint64))).astype(np.float64)
    across = unit(across - normal * dot(across, normal))
    along = np.array(
        [
            normal[1] * across[2] - normal[2] * across[1],
            normal[2] * across[0] - normal[0] * across[2],
            normal[0] * across[1] - normal[1] * across[0],
        ]
    )
    u = uniform(mix(h[:, None] + np.arange(21, 21 + count, dtype=np.uint64)), 6)[0]
    rows = []
    for (a, b), v in zip(_ring(count), u, strict=True):
        lateral = SPACING * (a * across + b * along)
        lateral = lateral + 24 * ((v[0] - 0.5) * across + (v[1] - 0.5) * along)
        way = unit(lateral * (0.35 / SPACING) - normal + 0.3 * (v[2] - 0.5) * across)
        half = 75 + 50 * v[3]
        rows.append([*(start + lateral + way * (half - 15)), *way, half, 64 + 14 * v[4]])
    return [np.array(column, np.float32) for column in zip(*rows, strict=True)]


def _ring(count: int) -> list[tuple[float, float]]:
    """Return places in the plane, 1 apart: in the middle, on a ring, or on a ring around one."""
    if count == 1:
        return [(0.0, 0.0)]
    ring = count - 1 if count == MOST_POSTS else count
    radius = 0.5 / math.sin(math.pi / ring)
    angles = [2 * math.pi * k / ring for k in range(ring)]
    places = [(radius * math.cos(a), radius * math.sin(a)) for a in angles]
    return [(0.0, 0.0), *places] if ring < count else places


def _nearest(window: _Window, table: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Find the profile of every voxel, and its membrane: owner, depth, tilt and front."""
    shape, count = window.off.shape, len(table[0])
    first = np.full(shape, np.inf, np.float32)
    second, nearest, other = first.copy(), np.zeros(shape, np.int8), np.zeros(shape, np.int8)
    ways = []
    for k in range(count):
        away, way = capsule([a[k] for a in table], window.q)
        ways.append(way)
        f = np.maximum(away, window.off - np.float32(BALL))
        closer, runner = f < first, f < second
        for best, value in ((second, f), (other, k)):
            np.copyto(best, value, where=runner)
        for best, value in ((second, first), (other, nearest), (first, f), (nearest, k)):
            np.copyto(best, value, where=closer)
    inside = (first < 0) & ~window.pre
    owner = np.where(window.pre, -1, np.where(inside, nearest + 1, 0)).astype(np.int8)
    way1 = [np.choose(nearest, [w[i] for w in ways]) for i in range(4)]
    depth = abs(first)
    tilt = abs(way1[0]) / np.maximum(way1[3], np.float32(1))
    if count > 1:
        way2 = [np.choose(other, [w[i] for w in ways]) for i in range(4)]
        along_z, slope = drift(way1, way2)
        between = (second - first) / slope
        closer = inside & (between < depth)
        depth = np.where(closer, between, depth)
        tilt = np.where(closer, abs(along_z) / slope, tilt)
    front = np.full(shape, np.inf, np.float32)
    for cell in np.unique(window.cell[inside]).tolist():
        here = inside & (window.cell == cell)
        places = [a[here] for a in window.q]
        front[here] = window.tissue.membrane_depth(cell, window.pre_cell, places, window.p)
    closer = front < depth
    depth = np.where(closer, front, depth)
    depth[window.pre] = np.inf
    return owner, depth, np.where(closer, np.float32(0.3), tilt), front


def _sides(window: _Window, owner: np.ndarray, deep: float) -> np.ndarray:
    """Find the sides: each profile near the pre cell, and the pre cell near those.

    Each is one face-connected piece, and each post piece touches the pre one.
    """
    side = np.zeros(owner.shape, np.int8)
    close = (owner > 0) & (window.beyond <= deep)
    for k in range(1, int(owner.max(initial=0)) + 1):
        parts, count = ndimage.label(close & (owner == k))
        if count:
            sizes = np.bincount(parts.ravel())[1:]
            if sizes.max() >= MIN_POST_VOXELS:
                side[parts == 1 + sizes.argmax()] = k
    if not side.any():
        return side
    away = ndimage.distance_transform_edt(side == 0, sampling=window.voxel)
    parts, count = ndimage.label(window.pre & (away <= deep) & (window.off <= BALL))
    if not count:
        return np.zeros_like(side)
    pre = parts == parts.flat[np.argmin(np.where(parts > 0, window.off, np.inf))]
    touching = np.unique(side[ndimage.binary_dilation(pre)])
    side[~np.isin(side, touching)] = 0
    side[pre] = -1
    return side


def profile_numbers(profiles: Profiles, synapse: int) -> np.ndarray:
    """Number the profiles of a synapse as neurons: above 2**60, below 2**63."""
    return np.array([((1 + k) << 60) + synapse for k in profiles.kept], np.int64)


def link_ends(
    profiles: Profiles,
    p: np.ndarray,
    normal: np.ndarray,
    voxel: np.ndarray,
    begin: np.ndarray,
    size: np.ndarray,
    min_voxels: int,
) -> Iterator[tuple[int, tuple[int, ...], tuple[int, ...]]]:
    """Find the links of a synapse in a region: profile, voxel of the pre and of the post end.

    All links begin at the platform of the T-bar, and end in the middle of each post side that has
    at least ``min_voxels`` voxels in the region.
    """
    low = np.maximum(begin - profiles.low, 0)
    high = np.maximum(begin + size - profiles.low, 0)
    side = profiles.side[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    corner = profiles.low + low
    pre = np.argwhere(side < 0)
    if not len(pre):
        return
    start = _nearest_to(pre, (p + PRE_POINT * normal) / voxel - corner, voxel) + corner
    for k in range(len(profiles.kept)):
        post = np.argwhere(side == k + 1)
        if len(post) >= min_voxels:
            end = _nearest_to(post, post.mean(axis=0), voxel) + corner
            yield k, tuple(start.tolist()), tuple(end.tolist())


def _nearest_to(places: np.ndarray, place: np.ndarray, voxel: np.ndarray) -> np.ndarray:
    """Return the voxel that lies nearest to a place; of equals the first."""
    away = ((places - place) * voxel) ** 2
    found: np.ndarray = places[np.argmin(away.sum(axis=1))]
    return found
