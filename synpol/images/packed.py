"""Chunks of a precomputed volume that lie compressed, under another name or under their own.

cloud-volume compresses the chunks that it writes. In a folder it gives them another name
(``0-64_0-64_0-64.gz``), on a server it leaves it to the server to say so. Here they are unpacked
into memory, and read by tensorstore from there.
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
from synpol.images.stores import Store, fault_of, reading

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
    """The chunks of one scale that is not sharded, each a file.

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
        Whether a compressed one was met.
    """

    def __init__(self, place: Store, info: Mapping[str, Any], index: int, voxel_bytes: int) -> None:
        self._place = place
        self._scale: Mapping[str, Any] = info["scales"][index]
        self._info = json.dumps({**info, "scales": [{**self._scale, "key": "scale"}]}).encode()
        self._voxel_bytes = voxel_bytes
        self.are_packed = False

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
        for name, content in self._read(list(self._names(box))):
            if content is not None:
                memory[f"scale/{name}"] = content
            elif not fill_missing:
                missing.append(name)
        if missing:
            raise _missing(
                self._place.path, f"the chunk {self._scale['key']}/{missing[0]} is missing"
            )
        with reading(f"precomputed://{self._place.path}", self._place.anonymous):
            yield tensorstore.open(
                {"driver": "neuroglancer_precomputed", "kvstore": {"driver": "memory"}},
                context=context,
                open=True,
            ).result()

    def _names(self, box: Sequence[slice]) -> Iterator[str]:
        """Names of the chunks of a region."""
        begin = [int(v) for v in self._scale.get("voxel_offset", [0, 0, 0])]
        sides = []
        for wanted, first, length, step in zip(
            box[::-1], begin, self._scale["size"], self._scale["chunk_sizes"][0], strict=True
        ):
            end, low, high = first + int(length), wanted.start - first, wanted.stop - first
            corners = range(first + low // int(step) * int(step), first + high, int(step))
            sides.append([f"{c}-{min(c + int(step), end)}" for c in corners])
        yield from ("_".join(sides_xyz) for sides_xyz in itertools.product(*sides))

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


def _missing(path: str, what: str) -> InputError:
    return InputError(
        f"precomputed://{path}: {what}. Copy it too; or, where chunks without content were never "
        "stored, have missing ones read as 0: "
        f"{{path: precomputed://{path}, fill_missing: true}}"
    )


def fault_of_shard(path: str, said: str) -> InputError:
    """Say what is wrong with a volume whose chunks lie in shards.

    Parameters
    ----------
    path : str
        Folder or URL of the volume.
    said : str
        Message of tensorstore.
    """
    reason = said.partition(" [")[0].rstrip(".")
    if "missing" in said.lower():
        return _missing(path, f"a chunk is missing in a shard ({reason})")
    return InputError(fault_of(f"precomputed://{path}", said, False))
