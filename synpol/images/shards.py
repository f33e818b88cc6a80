"""Encode shards of which only some chunks are stored; a chunk of zeros takes no time."""

from __future__ import annotations

from collections.abc import Sequence

import google_crc32c
import numpy as np
import zarr
from numcodecs.zstd import Zstd
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec, ZstdCodec

from synpol.images.sharding import morton
from synpol.images.sparse import SparseBlock

#: in the index of a shard: a chunk is not stored
_NOT_STORED = 2**64 - 1


def codec_of_shards(array: zarr.Array) -> Zstd | None:
    """Return what compresses the chunks of an array; None where its shards are not as synpol's."""
    match getattr(array.metadata, "codecs", ()):
        case (
            ShardingCodec(
                codecs=(BytesCodec(), ZstdCodec(level=level, checksum=checksum)),
                index_codecs=(BytesCodec(), Crc32cCodec()),
            ) as sharding,
        ) if str(getattr(sharding.index_location, "value", sharding.index_location)) == "end":
            return Zstd(level=level, checksum=checksum)
    return None


def encode_shard(
    block: SparseBlock, shard_shape: Sequence[int], chunk_shape: Sequence[int], codec: Zstd
) -> bytearray:
    """Encode a block that is a shard, without its chunks of zeros; the same bytes as zarr's.

    Parameters
    ----------
    block : SparseBlock
        The block; smaller than a shard at the end of the array.
    shard_shape, chunk_shape : 3 ints
        Voxels of a shard, and of a chunk in it.
    codec : Zstd
        What compresses a chunk.
    """
    cz, cy, cx = chunk_shape
    encoded = {index: codec.encode(values) for index, values in block.chunks((cz, cy, cx))}
    indices = np.array(list(encoded), np.int64).reshape(-1, 3)
    grid = np.array(shard_shape) // chunk_shape
    table = np.full((*grid.tolist(), 2), _NOT_STORED, "<u8")
    shard = bytearray()
    for at in np.argsort(morton(indices, grid)).tolist():
        z, y, x = indices[at].tolist()
        chunk = encoded[z, y, x]
        table[z, y, x] = len(shard), len(chunk)
        shard += chunk
    content = table.tobytes()
    return shard + content + google_crc32c.value(content).to_bytes(4, "little")
