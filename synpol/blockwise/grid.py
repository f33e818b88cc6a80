"""Blocks of a volume, in voxels, and the groups that they merge in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from synpol.blockwise.records import Index
from synpol.errors import InputError

#: along an axis; records and chunks lie in folders by index, and none may have more entries
MOST_BLOCKS = 10_000


@dataclass(frozen=True)
class BlockGrid:
    """A volume cut into blocks from its first voxel on; the last of an axis may be smaller.

    Attributes
    ----------
    shape : (int, int, int)
        Of the volume, voxels.
    block : (int, int, int)
        Of a block, voxels; no larger than the volume.

    Examples
    --------
    >>> blocks = BlockGrid.of((20, 100, 100), (20, 64, 64))
    >>> blocks.grid
    (1, 2, 2)
    >>> blocks.slices((0, 0, 1))
    (slice(0, 20, None), slice(0, 64, None), slice(64, 100, None))
    """

    shape: Index
    block: Index

    @classmethod
    def of(cls, shape: Sequence[int], block: Sequence[int]) -> BlockGrid:
        """Cut a volume into blocks.

        Raises
        ------
        InputError
            A block shape that is not three whole numbers from 1 on, or that makes more than
            `MOST_BLOCKS` along an axis.
        """
        try:
            good = len(block) == 3 and all(int(b) == b and b >= 1 for b in block)
        except (TypeError, ValueError):
            good = False
        if not good:
            raise InputError(
                f"block_shape is {block}; three whole numbers of voxels (z, y, x) from 1 on are "
                "expected"
            )
        clipped = [max(1, min(int(b), int(s))) for b, s in zip(block, shape, strict=True)]
        blocks = cls(index_of(shape), index_of(clipped))
        if max(blocks.grid) > MOST_BLOCKS:
            axis = blocks.grid.index(max(blocks.grid))
            raise InputError(
                f"block_shape is {tuple(block)}, which makes {blocks.grid[axis]} blocks along "
                f"{'zyx'[axis]}, and as many entries in one folder; at most {MOST_BLOCKS} are "
                f"allowed: choose at least {-(-shape[axis] // MOST_BLOCKS)} voxels there"
            )
        return blocks

    @property
    def grid(self) -> Index:
        """Blocks along z, y, x."""
        return index_of(-(-s // b) for s, b in zip(self.shape, self.block, strict=True))

    def bounds(self, index: Index) -> tuple[Index, Index]:
        """First voxel of a block, and one past its last."""
        begin = [i * b for i, b in zip(index, self.block, strict=True)]
        end = [min(a + b, s) for a, b, s in zip(begin, self.block, self.shape, strict=True)]
        return index_of(begin), index_of(end)

    def shape_of(self, index: Index) -> Index:
        """Voxels of a block along z, y, x."""
        return index_of(e - b for b, e in zip(*self.bounds(index), strict=True))

    def slices(self, index: Index) -> tuple[slice, slice, slice]:
        """Slices of a block's voxels."""
        z, y, x = (slice(a, b) for a, b in zip(*self.bounds(index), strict=True))
        return z, y, x

    def levels(self) -> list[Index]:
        """Grids of the merge tree: the blocks, groups of 2x2x2, groups of groups, ... one."""
        grids = [self.grid]
        while max(grids[-1]) > 1:
            grids.append(index_of(-(-n // 2) for n in grids[-1]))
        return grids


def children(index: Index, grid: Index) -> list[Index]:
    """The blocks (or groups) of `grid` that a group of the next level is made of."""
    z, y, x = index
    found = [
        (2 * z + dz, 2 * y + dy, 2 * x + dx) for dz in (0, 1) for dy in (0, 1) for dx in (0, 1)
    ]
    return [c for c in found if all(i < n for i, n in zip(c, grid, strict=True))]


def parent(index: Index) -> Index:
    """The group that a block (or group) belongs to."""
    z, y, x = index
    return z // 2, y // 2, x // 2


def index_of(values: Iterable[int]) -> Index:
    """Three whole numbers z, y, x as a tuple of Python ints."""
    z, y, x = (int(v) for v in values)
    return z, y, x
