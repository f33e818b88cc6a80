"""Paint the synthetic tissue: cytoplasm, membranes, organelles, vesicles and densities.

What the tissue is lies in ``tissue.py``; here it gets its grey values, box by box. Every voxel is
painted from its position alone, and overlapping objects in the order in which they are given.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from synpol.datasets.noise import bell, grid_noise, hash_at, key_of, mix, uniform
from synpol.datasets.polyadic import PRE_POINT, Profiles
from synpol.datasets.tissue import Cues, Neurites, Sites, near_box, warp_grid, warp_points


class Canvas:
    """Grey values (float32, 0..1) of one box of voxels while they are painted."""

    def __init__(
        self,
        tissue: Neurites,
        low: np.ndarray,
        shape: np.ndarray,
        voxel: np.ndarray,
        grafts: Sequence[tuple[Profiles, int]] = (),
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
        self.shade = tissue.shade
        for profiles, pre in grafts:
            self.graft(profiles, pre)
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

    def overlap(self, profiles: Profiles) -> tuple[tuple[slice, ...], tuple[slice, ...]] | None:
        """Return the slices of what a window and this box share, here and in the window."""
        start = np.maximum(profiles.low - self.low, 0)
        stop = np.minimum(profiles.low - self.low + profiles.owner.shape, self.shape)
        if (start >= stop).any():
            return None
        shift = self.low - profiles.low
        here = tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
        there = tuple(
            slice(int(a), int(b)) for a, b in zip(start + shift, stop + shift, strict=True)
        )
        return here, there

    def graft(self, profiles: Profiles, pre: int) -> None:
        """Let thin post profiles, and the pre cell beside them, own their voxels."""
        shared = self.overlap(profiles)
        first = len(self.shade)
        self.shade = np.concatenate([self.shade, profiles.shade])
        if shared is None:
            return
        here, there = shared
        owner, depth = profiles.owner[there], profiles.depth[there]
        thin = owner > 0
        nearer = thin | (depth < self.depth[here])
        np.copyto(self.depth[here], depth, where=nearer)
        np.copyto(self.tilt[here], profiles.tilt[there], where=nearer)
        cells = np.where(thin, first - 1 + owner.astype(np.int32), np.int32(pre))
        np.copyto(self.owner[here], cells, where=thin | (profiles.side[there] < 0))

    def _cytoplasm(self) -> np.ndarray:
        """Paint cytoplasm with its texture, sheets of endoplasmic reticulum, and membranes."""
        grey = np.float32(0.68) + self.shade[self.owner]
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
        return grey * (1 - dark * bump(self.depth * self.depth / (np.float32(2.9) * wide2)))

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
        rim = bump(((depth - 7) / (np.float32(9) + soft)) ** 2)
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
        ring = bump(((d - np.float32(12.5)) / np.float32(6 + 0.28 * self.voxel[2])) ** 2)
        lumen = bump(d * d / np.float32(100))
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
        lateral = np.clip(np.float32(2.2) * bump(sum(a * a for a in off) / radius**2), 0, 1)
        on_post, on_pre = self.owner[part] == post, self.owner[part] == pre
        deep = np.clip((np.float32(62) - depth) / 26, 0, 1) * on_post
        thin = np.clip((np.float32(26) + depth) / 14, 0, 1) * on_pre
        if thick:
            deep = np.clip((np.float32(40) - abs(depth)) / 20, 0, 1) * (on_post | on_pre)
            thin = np.float32(0)
        grain = np.clip(1 + np.float32(0.16) * self.fine[part], 0, np.float32(1.15))
        change = np.maximum(deep, np.float32(0.6) * thin) * lateral * grain * self.free[part]
        self.grey[part] *= 1 - np.float32(darkness) * change

    def t_bar(
        self, p: np.ndarray, normal: np.ndarray, pre: int, profiles: Profiles, darkness: float
    ) -> None:
        """Paint a pedestal with its platform in the pre cell, and faint densities in the posts."""
        part, q = self.around(p, 150.0, warped=True)
        if part is not None:
            start = warp_points(self.tissue.seed, p[None])[0]
            q = [a - np.float32(s) for a, s in zip(q, start, strict=True)]
            nz, ny, nx = (np.float32(n) for n in normal)
            up = q[0] * nz + q[1] * ny + q[2] * nx
            away = np.sqrt(np.maximum(sum(a * a for a in q) - up * up, 0))
            soft = np.float32(8 + 0.5 * self.voxel[2])
            thick = np.float32(15 + 0.2 * self.voxel[0])
            pedestal = np.minimum((30 - away) / soft, (PRE_POINT - up) / soft)
            platform = np.minimum((78 - away) / soft, (thick - abs(up - PRE_POINT + 10)) / soft)
            shape = np.clip(np.maximum(pedestal, platform) + np.float32(0.5), 0, 1)
            shape *= self.owner[part] == pre
            grain = np.clip(1 + np.float32(0.1) * self.fine[part], 0, np.float32(1.1))
            self.grey[part] *= 1 - np.float32(darkness) * shape * grain
        shared = self.overlap(profiles)
        if shared is not None:
            here, there = shared
            faint = np.clip((np.float32(34) - profiles.front[there]) / 12, 0, 1)
            faint *= profiles.side[there] > 0
            grain = np.clip(1 + np.float32(0.16) * self.fine[here], 0, np.float32(1.15))
            self.grey[here] *= 1 - np.float32(0.35 * darkness) * faint * grain

    def blob(self, p: np.ndarray, radius: float) -> None:
        """Paint a dark round body (nm)."""
        part, local = self.around(p, 2 * radius)
        if part is not None:
            off = sum(a * a for a in local) / np.float32(radius * radius)
            edge = np.clip(np.float32(1.6) * bump(off * np.float32(0.6)), 0, 1)
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


def bump(x: np.ndarray) -> np.ndarray:
    """Return a soft bump: 1 at x = 0, and 0 from x = 1 on (x is a squared distance)."""
    rest = np.maximum(1 - x, np.float32(0))
    return rest * rest


def paint_mitochondria(canvas: Canvas, lo: np.ndarray, hi: np.ndarray) -> None:
    """Paint the mitochondria of all neurites near the box."""
    tissue = canvas.tissue
    rows = np.flatnonzero(near_box(tissue.centre, lo, hi, 1400.0))
    u = uniform(mix(tissue.hash[rows]), 4)
    along = (2 * u[:, 1] - 1) * tissue.half[rows]
    p = tissue.unwarp(tissue.centre[rows] + along[:, None] * tissue.axis[rows])
    for row in np.flatnonzero(u[:, 0] < 0.38):
        length, width = 170 + 260 * u[row, 2], 95 + 75 * u[row, 3]
        canvas.mitochondrion(int(rows[row]), p[row], length, width)
