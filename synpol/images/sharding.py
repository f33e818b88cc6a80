"""Shards of neuroglancer's precomputed format: files that hold many values, each under a number.

The chunks of a volume have the numbers of a curve that keeps neighbours together, so that a shard
is a box of chunks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import tensorstore

TYPE = "neuroglancer_uint64_sharded_v1"


def morton(index: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Compute compressed Morton codes: the bits of x, y and z in turn, as many as each axis needs.

    Parameters
    ----------
    index : (n, 3) int64
        Indices of cells along x, y, z.
    grid : (3,) int64
        Number of cells along each axis.

    Returns
    -------
    (n,) uint64
        Code of each cell.
    """
    code, shift = np.zeros(len(index), np.uint64), 0
    for bit in range(int(max(grid)).bit_length()):
        for axis in range(3):
            if (int(grid[axis]) - 1) >> bit:
                code |= ((index[:, axis] >> bit) & 1).astype(np.uint64) << np.uint64(shift)
                shift += 1
    return code


def open_shards(
    base: Mapping[str, Any], sharding: Mapping[str, Any], context: tensorstore.Context
) -> tensorstore.KvStore:
    """Open the values of a folder of shards; the key of a value is `key_of` its number."""
    import tensorstore

    spec = {"driver": "neuroglancer_uint64_sharded", "metadata": dict(sharding), "base": dict(base)}
    return tensorstore.KvStore.open(spec, context=context).result()


def key_of(number: int) -> bytes:
    """The key of a value."""
    return int(number).to_bytes(8, "big")


def shard_box(grid: Sequence[int], bits: int) -> tuple[int, int, int]:
    """Number of chunks along each axis of a shard that holds 2**bits of them.

    Parameters
    ----------
    grid : 3 ints
        Number of chunks of the volume along x, y and z.
    bits : int

    Examples
    --------
    >>> shard_box((8, 8, 2), 5), shard_box((8, 8, 1), 5), shard_box((2, 1, 1), 5)
    ((4, 4, 2), (8, 4, 1), (2, 1, 1))
    """
    box = [1, 1, 1]
    for _ in range(max(grid).bit_length()):
        for axis in range(3):
            if bits and box[axis] < grid[axis]:
                box[axis] *= 2
                bits -= 1
    x, y, z = box
    return x, y, z
