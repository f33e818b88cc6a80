"""What blocks of a volume would hand to the merge, drawn without voxels; for merge_scaling.py.

The density is that of neuropil with a synapse per cubic micrometre, in blocks of 128 x 256 x 256
voxels of 30 x 8 x 8 nm: 16 synapses a block that touch no face, and 4 synapses across each face
(so 12 contacts a block), of which one in ten touches another face too, and half reach across
with their pre side, half with their post side.

Drawing is not what is measured, so there are a thousand different drawings of a face and of a
block; the index of a block says which of them it has.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from synpol.blockwise.grid import index_of
from synpol.blockwise.records import Index
from synpol.decoding.fragments import (
    KEPT,
    KINDS,
    NONE,
    Claims,
    Contacts,
    MergeNode,
    Sides,
    Touching,
)
from synpol.synapses.statistics import Rows, Stats

BLOCK = (128, 256, 256)
INSIDE, ACROSS, SHARED = 16, 4.0, 0.1
#: number of different drawings
DRAWINGS = 1000


def drawing(what: int, *place: int) -> int:
    """Which of the drawings a place has: a hash, the same in every process."""
    return hash((what, *place)) % DRAWINGS


@functools.cache
def some_contacts(number: int) -> np.ndarray:
    """Synapses across a face: whether pre and post reach across; (2, n) bool."""
    rng = np.random.default_rng((1, number))
    return rng.random((2, rng.poisson(ACROSS))) < 0.5


@functools.cache
def some_shares(number: int) -> np.ndarray:
    """Whether each contact of a block belongs to another fragment than the one before it."""
    new = np.random.default_rng((2, number)).random(2**8) >= SHARED
    new[:1] = True
    return new


@functools.cache
def some_sums(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums of components, and contact faces of synapses."""
    rng = np.random.default_rng((3, number))
    return rng.integers(50, 2000, 2**8), rng.integers(0, 100, (INSIDE, 3))


@dataclass(frozen=True)
class OpenFragments:
    """The fragments of a block that touch faces.

    Attributes
    ----------
    names : (m,) uint64
        Their names; the pre side begins one voxel on, the post side two.
    face : (n,) int
        Of each contact, ``2 * axis + (0 low, 1 high)``.
    fragment : (n,) int
        Of each contact, counted in the block.
    reach : (3, n) bool
        Whether the synapse (always), the pre and the post side reach across.
    """

    names: np.ndarray
    face: np.ndarray
    fragment: np.ndarray
    reach: np.ndarray

    @classmethod
    @functools.lru_cache(maxsize=2**12)
    def of(cls, index: Index, grid: Index) -> OpenFragments:
        faces: list[int] = []
        reach = [np.zeros((2, 0), dtype=bool)]
        for axis in range(3):
            for high in (0, 1):
                low_block = index_of(i - (a == axis and not high) for a, i in enumerate(index))
                if low_block[axis] < 0 or low_block[axis] + 1 >= grid[axis]:
                    continue
                reach.append(some_contacts(drawing(1, *low_block, axis)))
                faces += [2 * axis + high] * reach[-1].shape[1]
        fragment = np.cumsum(some_shares(drawing(2, *index))[: len(faces)]) - 1
        count = int(fragment[-1]) + 1 if len(fragment) else 0
        joined = np.concatenate(reach, axis=1)
        always = np.ones((1, len(faces)), dtype=bool)
        return cls(
            names(index, grid, np.arange(count) * 4096),
            np.array(faces, dtype=np.int64),
            fragment,
            np.concatenate([always, joined]),
        )


def names(index: Index, grid: Index, place: np.ndarray) -> np.ndarray:
    """Names of fragments that begin at some place in the C order of their block."""
    row = grid[2] * BLOCK[2]
    section = row * grid[1] * BLOCK[1]
    first = index[0] * BLOCK[0] * section + index[1] * BLOCK[1] * row + index[2] * BLOCK[2] + 1
    lines = place // BLOCK[2]
    found = lines // BLOCK[1] * section + lines % BLOCK[1] * row + (place % BLOCK[2] + first)
    return found.view(np.uint64)


def some_stats(index: Index, what: int, count: int) -> Stats:
    stats = Stats.empty(count)
    stats.sums[:] = some_sums(drawing(what, *index))[0][:count, None]
    stats.low[:] = np.array(index) * BLOCK
    stats.high[:] = stats.low + 9
    return stats


def simulated_rows(index: Index, grid: Index) -> Rows:
    """The synapses of a block that touch no face."""
    name = names(index, grid, np.arange(INSIDE) * 4096 + 2048)
    faces = some_sums(drawing(3, *index))[1].copy()
    return Rows(name, faces, some_stats(index, 4, INSIDE), some_stats(index, 5, INSIDE))


def simulated_node(index: Index, grid: Index) -> MergeNode:
    """What a block hands to the merge."""
    own = OpenFragments.of(index, grid)
    count = len(own.names)
    across = []
    for axis in range(3):
        if index[axis] + 1 < grid[axis]:
            other = index_of(i + (a == axis) for a, i in enumerate(index))
            theirs = OpenFragments.of(other, grid)
            here = theirs.face == 2 * axis
            across.append((theirs.names[theirs.fragment[here]], theirs.reach[:, here]))
    none = (np.zeros(0, np.uint64), np.zeros((3, 0), dtype=bool))
    met, met_reach = (np.concatenate(part, axis=-1) for part in zip(*across, none, strict=True))
    touching, sides, claims = {}, {}, {}
    for row, kind in enumerate(KINDS):
        fragment, face = own.fragment[own.reach[row]], own.face[own.reach[row]]
        mine = own.names[fragment] + np.uint64(row)
        high = np.flatnonzero(face % 2)  # by axis, as they were drawn
        touching[kind] = Touching(
            face.astype(np.uint8),
            mine,
            mine,
            (face[high] // 2).astype(np.uint8),
            mine[high],
            met[met_reach[row]] + np.uint64(row),
        )
        if row:
            which = np.unique(fragment)
            name = own.names[which] + np.uint64(row)
            voxels = some_sums(drawing(5 + row, *index))[0][: len(which)]
            sides[kind] = Sides(name, own.names[which], voxels)
            claims[kind] = np.full(count, KEPT)
            claims[kind][which] = name
    nothing = np.full(count, NONE)
    claims_of_voxels = Claims(
        np.concatenate([own.names, own.names]),
        np.concatenate([claims["pre"], nothing]),
        np.concatenate([nothing, claims["post"]]),
        some_stats(index, 8, 2 * count),
    )
    no_names = np.zeros((0, 2), np.uint64)
    no_contacts = Contacts(
        no_names[:, 0], no_names, no_names, np.zeros(0, np.uint8), np.zeros((0, 3), np.int64)
    )
    return MergeNode(
        own.names, touching, sides, claims_of_voxels, no_contacts, simulated_rows(index, grid)
    )
