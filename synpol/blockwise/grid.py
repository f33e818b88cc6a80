"""Cut a volume into blocks, and join blocks to groups; everything is in voxels along z, y, x."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from synpol.blockwise.records import Index
from synpol.errors import InputError

#: blocks along a side of the lowest groups: a job of so many costs little more than their arrays
GROUP = 4
#: largest number of blocks along an axis: records and chunks lie in folders by index
MOST_BLOCKS = 10_000


@dataclass(frozen=True)
class BlockGrid:
    """The blocks of a volume, from its first voxel on; the last along an axis may be smaller.

    Attributes
    ----------
    shape : (int, int, int)
        Shape of the volume.
    block : (int, int, int)
        Shape of a block, which is no larger than the volume.
    group : int
        Number of blocks along a side of the lowest groups of the merge tree.

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
    group: int = GROUP

    @classmethod
    def of(cls, shape: Sequence[int], block: Sequence[int]) -> BlockGrid:
        """Cut a volume into blocks.

        Parameters
        ----------
        shape : 3 ints
            Shape of the volume.
        block : 3 ints
            Shape of a block; sides longer than the volume are cut.

        Raises
        ------
        InputError
            The block shape is not three whole numbers from 1 on, or it makes more than
            `MOST_BLOCKS` blocks along an axis.
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
        """Number of blocks along z, y, x."""
        return index_of(-(-s // b) for s, b in zip(self.shape, self.block, strict=True))

    def bounds(self, index: Index) -> tuple[Index, Index]:
        """Return the first voxel of a block, and one past its last."""
        begin = [i * b for i, b in zip(index, self.block, strict=True)]
        end = [min(a + b, s) for a, b, s in zip(begin, self.block, self.shape, strict=True)]
        return index_of(begin), index_of(end)

    def shape_of(self, index: Index) -> Index:
        """Return the shape of a block."""
        return index_of(e - b for b, e in zip(*self.bounds(index), strict=True))

    def slices(self, index: Index) -> tuple[slice, slice, slice]:
        """Return the slices of a block's voxels."""
        z, y, x = (slice(a, b) for a, b in zip(*self.bounds(index), strict=True))
        return z, y, x

    def tree(self) -> list[Index]:
        """Return the grids of the merge tree: blocks, groups of blocks, 2x2x2 groups, ... one."""
        grids, side = [self.grid], self.group
        while max(grids[-1]) > 1:
            grids.append(parent_grid(grids[-1], side))
            side = 2
        return grids

    def layer_of(self, layer: int, depth: int) -> int:
        """Return the layer of groups of a tree depth in which a layer of blocks lies."""
        return layer if depth == 0 else layer // (self.group * 2 ** (depth - 1))


def parent_grid(grid: Index, side: int) -> Index:
    """Return the grid of groups with `side` members of `grid` along a side."""
    return index_of(-(-n // side) for n in grid)


def children(index: Index, grid: Index, side: int) -> list[Index]:
    """Return the blocks (or groups) of `grid` that make a group with `side` of them along a side.

    Examples
    --------
    >>> children((0, 0, 1), (1, 2, 3), 2)
    [(0, 0, 2), (0, 1, 2)]
    """
    z, y, x = (range(i * side, min((i + 1) * side, n)) for i, n in zip(index, grid, strict=True))
    return list(itertools.product(z, y, x))


def parent(index: Index, side: int) -> Index:
    """Return the group that a block (or group) belongs to, of `side` members along a side."""
    return index_of(i // side for i in index)


def index_of(values: Iterable[int]) -> Index:
    """Return three whole numbers z, y, x as a tuple of Python ints."""
    z, y, x = (int(v) for v in values)
    return z, y, x
