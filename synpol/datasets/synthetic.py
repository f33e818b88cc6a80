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

from synpol.datasets.canvas import Canvas, paint_mitochondria
from synpol.datasets.noise import uniform
from synpol.datasets.polyadic import (
    BALL,
    CLOUD_OFFSET,
    MIN_POST_VOXELS,
    Profiles,
    TrueLinks,
    link_ends,
    profile_numbers,
    profiles_of,
)
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
)
from synpol.errors import InputError
from synpol.polarity import post_label, pre_label

MIN_VESICLES = 8  # a synapse whose cell has room for fewer does not exist
NUMBER_BITS = 20  # per axis, for the lattice cell inside a number
LIMIT_NM = (2 ** (NUMBER_BITS - 1)) * SYNAPSE_SPACING - 10_000.0
LIMIT = 2**30  # voxels or nm: products of two such numbers fit int64


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
    polyadic : bool
        Whether synapses are those of insects: a T-bar in one neuron, opposite one to six thin
        neurites, each with a post side of its own; see `links`.

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
    polyadic: bool = False

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
            The neurite that every voxel lies in, numbered from its place in its lattice likewise;
            the thin ones of polyadic synapses have numbers above ``2**60``.
        """
        low, shape = _whole("offset_vx", offset_vx, -LIMIT), _whole("shape_vx", shape_vx, 1)
        voxel, halo = np.array(self.voxel_size, np.int64), np.array([0, 2, 2])
        lo, hi = ((a * voxel).astype(np.float64) for a in (low - halo, low + shape + halo - 1))
        if (lo < -LIMIT_NM).any() or (hi > LIMIT_NM).any():
            raise InputError(
                f"offset_vx is {tuple(offset_vx)} with shape_vx {tuple(shape_vx)}; expected a "
                f"region within {LIMIT_NM:.0f} nm of the origin along every axis"
            )
        cues = Cues.at(float(self.difficulty))
        tissue, synapses, others, kinds = self._sites(cues, lo, hi)
        numbers = _number(synapses.cells)
        clouds = self._clouds(tissue, synapses, cues)
        thin = self._profiles(tissue, synapses, voxel)
        grafts = {row: made for row, made in enumerate(thin) if made is not None}
        canvas = Canvas(
            tissue,
            low - halo,
            shape + 2 * halo,
            voxel,
            [(made, int(synapses.pre[row])) for row, made in grafts.items()],
        )
        paint_mitochondria(canvas, lo, hi)
        labels = np.zeros(shape, np.uint64)
        for row, cloud in enumerate(clouds):
            if len(cloud) < MIN_VESICLES:
                continue
            number, made = int(numbers[row]), thin[row]
            if self.polyadic:
                if made is None or made.silent:
                    continue
                sides = (made.low, made.side < 0, made.side > 0)
            else:
                found = side_masks(tissue, synapses, row, voxel)
                if found is None:
                    continue
                sides = found
                canvas.density(synapses, row, cues.density, thick=False)
            for p in cloud:
                canvas.vesicle(p, cues.ring)
            if made is not None:
                site = (synapses.p[row], synapses.normal[row], int(synapses.pre[row]))
                canvas.t_bar(*site, made, cues.density)
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
        names = [
            _number(tissue.lattice),
            *(profile_numbers(made, int(numbers[row])) for row, made in grafts.items()),
        ]
        neurons = np.concatenate(names).astype(np.uint64)[canvas.owner[:, 2:-2, 2:-2]]
        return Region(canvas.develop(cues)[:, 2:-2, 2:-2].copy(), labels, neurons)

    def links(
        self,
        offset_vx: tuple[int, int, int],
        shape_vx: tuple[int, int, int],
        within: tuple[tuple[int, int, int], tuple[int, int, int]] | None = None,
        min_voxels: int = MIN_POST_VOXELS,
    ) -> TrueLinks:
        """Find the links of the synapses of one region, which has to be polyadic.

        Parameters
        ----------
        offset_vx, shape_vx : tuple of int
            As in `make`.
        within : (offset, shape), or None
            A larger region that this one is a block of. A synapse belongs to the block in which
            it lies (for one outside of the region, the nearest block), so the links of all blocks
            are those of the region, each once.
        min_voxels : int
            Fewest voxels of a post side in the region; a link whose post side has less is left out.

        Returns
        -------
        TrueLinks
            In the order of synapses, and of the neurons at their posts.
        """
        low, shape = _whole("offset_vx", offset_vx, -LIMIT), _whole("shape_vx", shape_vx, 1)
        begin, size = (low, shape) if within is None else (np.array(a, np.int64) for a in within)
        voxel = np.array(self.voxel_size, np.int64)
        lo, hi = ((a * voxel).astype(np.float64) for a in (low, low + shape - 1))
        cues = Cues.at(float(self.difficulty))
        tissue, synapses = self._sites(cues, lo, hi)[:2]
        place = np.clip(np.floor(synapses.p / voxel).astype(np.int64), begin, begin + size - 1)
        synapses = synapses[((place >= low) & (place < low + shape)).all(axis=1)]
        rows = []
        thin = self._profiles(tissue, synapses, voxel)
        for row, cloud in enumerate(self._clouds(tissue, synapses, cues)):
            made = thin[row]
            if len(cloud) < MIN_VESICLES or made is None or made.silent:
                continue
            number = int(_number(synapses.cells[row : row + 1])[0])
            pre_id = int(_number(tissue.lattice[synapses.pre[row : row + 1]])[0])
            site = (synapses.p[row], synapses.normal[row])
            ends = link_ends(made, *site, voxel, begin, size, min_voxels)
            posts = profile_numbers(made, number).tolist()
            rows += [(number, pre_id, posts[k], *pre, *post) for k, pre, post in ends]
        return TrueLinks.of(sorted(rows), voxel)

    def _sites(
        self, cues: Cues, lo: np.ndarray, hi: np.ndarray
    ) -> tuple[Neurites, Sites, Sites, np.ndarray]:
        """Place neurites, synapses and distractors (with their kinds) in and around a box."""
        seed = int(self.seed)
        tissue = Neurites(seed, lo - CELL_MARGIN, hi + CELL_MARGIN)
        box = (lo - SYNAPSE_MARGIN, hi + SYNAPSE_MARGIN, SYNAPSE_SPACING)
        synapses = membrane_sites(tissue, "synapse", *box)
        synapses = synapses[thin_out(synapses, MIN_SYNAPSE_DISTANCE, 2)]
        others, kinds = distractor_sites(tissue, synapses, cues, lo, hi)
        return tissue, synapses[near_box(synapses.p, lo, hi, REACH)], others, kinds

    def _clouds(self, tissue: Neurites, synapses: Sites, cues: Cues) -> list[np.ndarray]:
        """Draw the vesicles of each synapse; those of a T-bar stay near it."""
        if not self.polyadic:
            return vesicle_positions(tissue, synapses, cues, "vesicle", 65.0)
        clouds = vesicle_positions(tissue, synapses, cues, "vesicle", CLOUD_OFFSET)
        away = (((c - p) ** 2).sum(axis=1) for c, p in zip(clouds, synapses.p, strict=True))
        return [c[a < BALL**2] for c, a in zip(clouds, away, strict=True)]

    def _profiles(
        self, tissue: Neurites, synapses: Sites, voxel: np.ndarray
    ) -> list[Profiles | None]:
        """Make the thin post profiles of each synapse: none of those that are not polyadic."""
        rows = range(len(synapses.p))
        return [profiles_of(tissue, synapses, k, voxel) if self.polyadic else None for k in rows]


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
