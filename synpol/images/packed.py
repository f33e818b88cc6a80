"""Chunks of a precomputed volume that tensorstore alone does not read as they are meant.

cloud-volume compresses the chunks that it writes. In a folder it gives them another name
(``0-64_0-64_0-64.gz``), on a server it leaves it to the server to say so. Here they are unpacked
into memory, and read by tensorstore from there. So are chunks in shards, of which tensorstore does
not tell that one is missing.
"""

from __future__ import annotations

import bz2
import itertools
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from synpol.errors import InputError
from synpol.images.sharding import key_of, morton, open_shards
from synpol.images.stores import Store, reading

if TYPE_CHECKING:
    import tensorstore


def _brotli(content: bytes) -> bytes:
    import imagecodecs

    return bytes(imagecodecs.brotli_decode(content))


def _zstd(content: bytes) -> bytes:
    import imagecodecs

    return bytes(imagecodecs.zstd_decode(content))


def _gzip(content: bytes) -> bytes:
    return zlib.decompress(content, wbits=47)  # with the head of gzip or of zlib


#: endings of compressed chunks, and how each is unpacked
ENDINGS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": _gzip,
    ".br": _brotli,
    ".zstd": _zstd,
    ".zst": _zstd,
    ".xz": lzma.decompress,
    ".lzma": lzma.decompress,
    ".bz2": bz2.decompress,
}
#: first and last corner of a chunk along an axis, in its name
_SIDE = re.compile(r"(-?\d+)-(-?\d+)")
#: first bytes of compressed content that has the name of a plain chunk
_MARKS = {b"\x1f\x8b": _gzip, b"\x28\xb5\x2f\xfd": _zstd}


class Chunks:
    """The chunks of one scale, each a file or in a shard.

    Parameters
    ----------
    place : Store
        Folder of the volume.
    info : mapping
        Its file ``info``.
    index : int
        Which of its scales.
    voxel_bytes : int
        Bytes of a voxel with all its channels.

    Attributes
    ----------
    are_packed : bool
        Whether they have to be unpacked: a compressed one was met, or they are in shards.
    """

    def __init__(self, place: Store, info: Mapping[str, Any], index: int, voxel_bytes: int) -> None:
        self._place = place
        self._scale: Mapping[str, Any] = info["scales"][index]
        scale = {k: v for k, v in self._scale.items() if k != "sharding"} | {"key": "scale"}
        self._info = json.dumps({**info, "scales": [scale]}).encode()
        self._voxel_bytes = voxel_bytes
        self._shards = None
        sharding = self._scale.get("sharding")
        if sharding is not None:
            base = place.spec_of(str(self._scale["key"]))
            with reading(place.path, place.anonymous):
                self._shards = open_shards(base, sharding, place.context)
        self.are_packed = self._shards is not None

    @contextmanager
    def unpacked(
        self, box: Sequence[slice], fill_missing: bool
    ) -> Iterator[tensorstore.TensorStore]:
        """Unpack the chunks of a region, and open them as an array that holds nothing else.

        Parameters
        ----------
        box : 3 slices
            z, y, x, in voxels of the volume.
        fill_missing : bool
            Whether a chunk that is missing is 0.

        Raises
        ------
        InputError
            A chunk is missing or cannot be unpacked.
        """
        import tensorstore

        context = tensorstore.Context()
        memory = tensorstore.KvStore.open({"driver": "memory"}, context=context).result()
        memory["info"] = self._info
        missing = []
        chunks = self._chunks(box)
        read = self._read(list(chunks)) if self._shards is None else self._read_shards(chunks)
        for name, content in read:
            if content is not None:
                memory[f"scale/{name}"] = content
            elif not fill_missing:
                missing.append(name)
        if missing:
            where = f"precomputed://{self._place.path}"
            raise InputError(
                f"{where}: the chunk {self._scale['key']}/{missing[0]} is missing. Copy it too; "
                "or, where chunks without content were never stored, have missing ones read as 0: "
                f"{{path: {where}, fill_missing: true}}"
            )
        with reading(f"precomputed://{self._place.path}", self._place.anonymous):
            yield tensorstore.open(
                {"driver": "neuroglancer_precomputed", "kvstore": {"driver": "memory"}},
                context=context,
                open=True,
            ).result()

    def files(self, count: int) -> list[str]:
        """Name the files of some chunks or shards, spread evenly over the volume.

        Parameters
        ----------
        count : int
            Largest number of files.
        """
        begin, end, step = np.array(self._bounds())
        grid = -(-(end - begin) // step)
        total = int(np.prod(grid))
        flat = np.unique(np.linspace(0, total - 1, min(count, total)).astype(np.int64))
        places = np.stack(np.unravel_index(flat, grid[::-1])[::-1], axis=1)
        key = self._scale["key"]
        sharding = self._scale.get("sharding")
        if sharding is not None and sharding["hash"] == "identity":
            bits = [int(sharding[f"{k}_bits"]) for k in ("preshift", "minishard", "shard")]
            numbers = sorted({int(c) >> sum(bits[:2]) for c in morton(places, grid).tolist()})
            return [f"{key}/{n:0{-(-bits[2] // 4)}x}.shard" for n in numbers]
        if sharding is not None:
            return []
        names = []
        for place in places:
            first = begin + place * step
            sides = zip(first.tolist(), np.minimum(first + step, end).tolist(), strict=True)
            names.append(f"{key}/{'_'.join(f'{a}-{b}' for a, b in sides)}")
        return names

    def _chunks(self, box: Sequence[slice]) -> dict[str, tuple[int, ...]]:
        """The chunks of a region: their names, and their places in the grid of chunks, x, y, z."""
        begin, end, step, sides = *self._bounds(), []
        for wanted, first, last, length in zip(box[::-1], begin, end, step, strict=True):
            places = range((wanted.start - first) // length, -(-(wanted.stop - first) // length))
            corners = [(first + p * length, min(first + (p + 1) * length, last)) for p in places]
            sides.append([(p, f"{a}-{b}") for p, (a, b) in zip(places, corners, strict=True)])
        cells = itertools.product(*sides)
        return {"_".join(name for _, name in cell): tuple(p for p, _ in cell) for cell in cells}

    def _bounds(self) -> list[list[int]]:
        """First voxel, one past the last, and extent of a chunk; each x, y, z."""
        begin = [int(v) for v in self._scale.get("voxel_offset", [0, 0, 0])]
        end = [b + int(n) for b, n in zip(begin, self._scale["size"], strict=True)]
        return [begin, end, [int(v) for v in self._scale["chunk_sizes"][0]]]

    def _read_shards(
        self, chunks: Mapping[str, tuple[int, ...]]
    ) -> Iterator[tuple[str, bytes | None]]:
        """Read chunks that lie in shards."""
        assert self._shards is not None
        begin, end, step = np.array(self._bounds())
        codes = morton(np.array(list(chunks.values())), -(-(end - begin) // step))
        asked = [self._shards.read(key_of(code)) for code in codes.tolist()]
        with reading(f"precomputed://{self._place.path}", self._place.anonymous):
            for name, future in zip(chunks, asked, strict=True):
                found = future.result()
                yield name, found.value if found.state == "value" else None

    def _read(self, names: Sequence[str]) -> Iterator[tuple[str, bytes | None]]:
        """Read chunks, unpacked; all of one ending at a time."""
        left = list(names)
        for ending in ("", *ENDINGS):
            asked = [(name, self._file(f"{name}{ending}")) for name in left]
            left = []
            for name, future in asked:
                where = f"{self._place.path}/{self._scale['key']}/{name}{ending}"
                with reading(where, self._place.anonymous):
                    found = future.result()
                if found.state != "value":
                    left.append(name)
                    continue
                unpack = ENDINGS[ending] if ending else self._mark(name, found.value)
                self.are_packed |= unpack is not None
                yield name, found.value if unpack is None else _unpacked(where, found.value, unpack)
            if not left:
                return
        yield from ((name, None) for name in left)

    def _file(self, name: str) -> Any:
        key = PurePosixPath(str(self._scale["key"])) / name
        return self._place.files.read(str(key))

    def _mark(self, name: str, content: bytes) -> Callable[[bytes], bytes] | None:
        """How a chunk that has its own name is unpacked; None where it is plain."""
        if self._scale.get("encoding") == "raw":
            sides = _SIDE.findall(name)
            voxels = int(np.prod([int(end) - int(begin) for begin, end in sides]))
            if len(content) == voxels * self._voxel_bytes:
                return None
        return next((how for mark, how in _MARKS.items() if content.startswith(mark)), None)


def _unpacked(where: str, content: bytes, unpack: Callable[[bytes], bytes]) -> bytes:
    try:
        return unpack(content)
    except Exception as error:  # each library has its own
        raise InputError(f"{where} cannot be unpacked: {error}. Copy it anew") from error
