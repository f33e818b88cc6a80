"""Instances as a precomputed segmentation, for neuroglancer, cloud-volume and their kind.

Each resolution is cut into shards, files that hold many chunks. A block is a shard, so that blocks
are written at the same time, and a block that is written again gives the same bytes. Chunks without
synapses are stored too: cloud-volume takes a chunk that is missing for an error.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from synpol.blockwise.driver import Driver
from synpol.blockwise.grid import BlockGrid, index_of
from synpol.blockwise.lock import HIDDEN_LOCK
from synpol.blockwise.records import Done, Index, work_folder, write_record
from synpol.blockwise.run import all_records_of, records_of
from synpol.blockwise.stage import VoxelStage
from synpol.errors import InputError
from synpol.files import is_url
from synpol.images.claim import check_complete
from synpol.images.downsampling import label_of_cells, level_factors
from synpol.images.identity import hash_of, identity_of
from synpol.images.image import Image, open_image
from synpol.images.kinds import SCHEME
from synpol.images.precomputed import DRIVER
from synpol.images.sharding import TYPE as SHARDED
from synpol.images.sharding import key_of, morton, open_shards, shard_box
from synpol.images.stores import Store, reading
from synpol.images.writing import check_writable

if TYPE_CHECKING:
    import tensorstore

    from synpol.config import ImageSource, Workers

#: voxels along each side of a chunk
CHUNK = 64
#: chunks in a shard, and those of them that share an index, as powers of two
_SHARD_BITS, _INDEX_BITS = 5, 3
#: file of cloud-volume that says where a volume comes from; written first and last
_ABOUT = "provenance"
_TASK = "synpol: instances as a precomputed segmentation"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Level:
    """One resolution, z, y, x.

    Attributes
    ----------
    factors : (int, int, int)
        Voxels of the resolution before that make one of this.
    size : (float, float, float)
        Voxel size, nm.
    begin, shape : (int, int, int)
        First voxel, counted from the origin of the world, and number of voxels.
    """

    factors: Index
    size: tuple[float, ...]
    begin: Index
    shape: Index

    def coarser(self, factors: Index) -> Level:
        """The next resolution; its voxels begin at multiples of their size."""
        begin = index_of(b // f for b, f in zip(self.begin, factors, strict=True))
        ends = zip(self.begin, self.shape, factors, begin, strict=True)
        shape = index_of(-(-(b + n) // f) - first for b, n, f, first in ends)
        size = tuple(s * f for s, f in zip(self.size, factors, strict=True))
        return Level(factors, size, begin, shape)

    @property
    def key(self) -> str:
        """Name of its folder."""
        return "_".join(f"{v:.10g}" for v in self.size[::-1])

    @property
    def grid(self) -> Index:
        """Number of chunks along x, y and z."""
        return index_of(-(-n // CHUNK) for n in self.shape[::-1])

    @property
    def shard(self) -> Index:
        """Voxels of a shard."""
        return index_of(CHUNK * n for n in shard_box(self.grid, _SHARD_BITS)[::-1])

    @property
    def sharding(self) -> dict[str, Any]:
        """How chunks are distributed over shards."""
        bits = sum((n - 1).bit_length() for n in self.grid)
        preshift = min(bits, _INDEX_BITS)
        minishard = min(bits, _SHARD_BITS) - preshift
        return {
            "@type": SHARDED,
            "hash": "identity",
            "preshift_bits": preshift,
            "minishard_bits": minishard,
            "shard_bits": bits - preshift - minishard,
            "data_encoding": "gzip",
            "minishard_index_encoding": "gzip",
        }

    def info(self) -> dict[str, Any]:
        """What the file ``info`` says about it."""
        return {
            "key": self.key,
            "resolution": [int(v) if v == int(v) else v for v in self.size[::-1]],
            "voxel_offset": self.begin[::-1],
            "size": self.shape[::-1],
            "chunk_sizes": [[CHUNK] * 3],
            "encoding": "compressed_segmentation",
            "compressed_segmentation_block_size": [8, 8, 8],
            "sharding": self.sharding,
        }


def info_of(scales: list[dict[str, Any]]) -> dict[str, Any]:
    """The file ``info`` of a segmentation."""
    return {
        "@type": "neuroglancer_multiscale_volume",
        "type": "segmentation",
        "data_type": "uint64",
        "num_channels": 1,
        "scales": scales,
    }


def encoded(voxels: np.ndarray) -> dict[tuple[int, ...], bytes]:
    """Encode the chunks of a shard, those without labels too.

    Parameters
    ----------
    voxels : (z, y, x) uint64

    Returns
    -------
    dict of (int, int, int) to bytes
        Each chunk by its place along x, y and z.
    """
    import tensorstore

    level = Level((1, 1, 1), (1, 1, 1), (0, 0, 0), index_of(voxels.shape))
    scale = {k: v for k, v in level.info().items() if k != "sharding"}
    context = tensorstore.Context()
    memory = tensorstore.KvStore.open({"driver": "memory"}, context=context).result()
    memory["info"] = json.dumps(info_of([scale])).encode()
    spec = {
        "driver": DRIVER,
        "kvstore": {"driver": "memory"},
        "store_data_equal_to_fill_value": True,
    }
    tensorstore.open(spec, context=context, open=True).result().T[0].write(voxels).result()
    found = {}
    for place in np.ndindex(level.grid):
        corners = zip(place, level.shape[::-1], strict=True)
        sides = (f"{p * CHUNK}-{min((p + 1) * CHUNK, n)}" for p, n in corners)
        found[place] = memory[f"{level.key}/{'_'.join(sides)}"]
    return found


@dataclass(frozen=True)
class OpenLevels:
    """Open arrays, (z, y, x).

    Attributes
    ----------
    source : array
        Instances, or the resolution before.
    target : tensorstore.KvStore
        Chunks of the resolution to write, by their numbers.
    """

    source: Any
    target: tensorstore.KvStore


@dataclass(frozen=True, kw_only=True)
class SegmentationStage(VoxelStage[OpenLevels, np.ndarray, np.ndarray]):
    """Write every shard of one resolution.

    Attributes
    ----------
    instances : str or ImageSource
        Instances.
    place : str
        Folder or URL to write.
    levels : tuple of Level
        Resolutions, the finest first.
    number : int
        Which of them to write.
    """

    instances: str | ImageSource
    place: str
    levels: tuple[Level, ...]
    number: int

    name = "precomputed"
    version = 1
    voxel_cost = 8

    def open(self) -> OpenLevels:
        level, store = self.levels[self.number], Store(self.place)
        source: Any
        if self.number:
            stored = store.open(DRIVER, scale_index=self.number - 1)
            source = stored.T[0].translate_to[0, 0, 0]
        else:
            source = open_image(self.instances, channels=0).array
        base = store.spec_of(level.key)
        return OpenLevels(source, open_shards(base, level.sharding, store.context))

    def read(self, index: Index, opened: OpenLevels) -> np.ndarray:
        level, finer = self.levels[self.number], self.levels[max(0, self.number - 1)]
        where, missing = [], []
        bounds = zip(*self.blocks.bounds(index), strict=True)
        for (a, b), first, f, n, begin in zip(
            bounds, level.begin, level.factors, finer.shape, finer.begin, strict=True
        ):
            low, high = ((v + first) * f - begin for v in (a, b))
            where.append(slice(max(0, low), min(n, high)))
            missing.append((max(0, -low), 0))
        source = opened.source[tuple(where)]
        if self.number:
            with reading(self.place, False):
                source = source.read().result()
        voxels = source
        return np.pad(np.asarray(voxels, np.uint64), missing) if np.any(missing) else voxels

    def compute(self, index: Index, opened: OpenLevels, given: np.ndarray) -> np.ndarray:
        factors = self.levels[self.number].factors
        return label_of_cells(given, factors) if max(factors) > 1 else given

    def write(self, index: Index, opened: OpenLevels, result: np.ndarray) -> None:
        import tensorstore

        level = self.levels[self.number]
        chunks = encoded(np.asarray(result, np.uint64))
        first = [a // CHUNK for a in self.blocks.bounds(index)[0][::-1]]
        numbers = morton(np.array(list(chunks)) + first, np.array(level.grid)).tolist()
        with reading(self.place, False), tensorstore.Transaction() as whole_shard:
            target = opened.target.with_transaction(whole_shard)
            for number, content in sorted(zip(numbers, chunks.values(), strict=True)):
                target[key_of(number)] = content
        write_record(self.folder, index, Done())


def write_segmentation(
    instances: Image,
    place: str,
    *,
    work_dir: Path,
    num_workers: int = 1,
    workers: Workers | None = None,
) -> int:
    """Write instances as a precomputed segmentation with all its resolutions.

    Called again after any interruption it finishes the job.

    Parameters
    ----------
    instances : Image
        Labels, (z, y, x).
    place : str
        Folder or URL to write. A segmentation that this function wrote there of other instances is
        replaced.
    work_dir : Path
        Folder for records, the lock and logs, shared by all workers.
    num_workers, workers
        As in `synpol.decode_blockwise`.

    Returns
    -------
    int
        Number of resolutions.

    Raises
    ------
    InputError
        Something else lies at the place, or it cannot be written.
    RuntimeError
        Some blocks failed; the others are kept.
    """
    place = place.removeprefix(SCHEME).rstrip("/")
    check_complete(instances)
    levels = levels_of(instances)
    about = identity_of(instances), SegmentationStage.version, _SHARD_BITS, CHUNK
    digest = hash_of(about)
    work = work_folder("", work_dir)
    check_writable(work)
    if not is_url(place):
        check_writable(Path(place).parent)
    what = f"segmentation in {place}"
    with Driver(work, what, num_workers, workers, output=place) as driver:
        if _claimed(place, digest, work):
            return len(levels)
        folder = records_of(work, SegmentationStage.name, place, digest)
        info = info_of([level.info() for level in levels])
        Store(place).write("info", json.dumps(info, indent=1).encode())
        for number, level in enumerate(levels):
            stage = SegmentationStage(
                folder=folder / level.key,
                instances=instances.source,
                place=place,
                levels=levels,
                number=number,
                blocks=BlockGrid.of(level.shape, level.shard),
            )
            driver.run(stage)
        if not is_url(place):  # of writers that were killed
            for left in Path(place).rglob("*.__lock"):
                left.unlink()
        _note(place, digest, instances, finished=True)
        shutil.rmtree(folder, ignore_errors=True)
    return len(levels)


def levels_of(instances: Image) -> tuple[Level, ...]:
    """Find the resolutions to write, the finest first."""
    size = instances.voxel_size_nm
    begin = [o / s for o, s in zip(instances.offset_nm, size, strict=True)]
    whole = index_of(int(np.floor(b + 0.5 + 1e-6)) for b in begin)
    beside = [(w - b) * s for w, b, s in zip(whole, begin, size, strict=True)]
    if max(map(abs, beside)) > 0.01 * min(size):
        _log.warning(
            "%s begins between two voxels, for which the precomputed format has no words: the "
            "segmentation lies (%s) nm (z, y, x) beside it",
            instances.path,
            ", ".join(f"{v:g}" for v in beside),
        )
    first = Level((1, 1, 1), size, whole, index_of(instances.shape_vx))
    factors = level_factors(instances.shape_vx, instances.voxel_size)
    return tuple(accumulate(factors, Level.coarser, initial=first))


def _claimed(place: str, digest: str, work: Path) -> bool:
    """Say whether the segmentation is finished; else make room for it.

    Raises
    ------
    InputError
        Something else lies there.
    """
    store = Store(place)
    found = _method_of(store.read(_ABOUT))
    if found is None and (store.read("info") is not None or _is_occupied(place)):
        raise InputError(f"{place} exists and was not written by synpol; give another folder")
    if found is not None and found.get("hash") == digest:
        return bool(found.get("finished"))
    if found is not None:
        store.clear()
    for old in all_records_of(work, SegmentationStage.name, place):
        shutil.rmtree(old)
    _note(place, digest, None, finished=False)
    return False


def _is_occupied(place: str) -> bool:
    folder = Path(place)
    if is_url(place) or not folder.exists():
        return False
    return not folder.is_dir() or any(one.name != HIDDEN_LOCK for one in folder.iterdir())


def _method_of(content: bytes | None) -> dict[str, Any] | None:
    """What this module noted in a file of cloud-volume's; None where it did not."""
    try:
        method = json.loads(content or b"")["processing"][0]["method"]
        return method if method["task"] == _TASK else None
    except (ValueError, LookupError, TypeError):
        return None


def _note(place: str, digest: str, instances: Image | None, *, finished: bool) -> None:
    method = {"task": _TASK, "hash": digest, "finished": finished}
    about = {
        "description": "synapses: 2n-1 on the pre side of synapse n, 2n on its post side",
        "owners": [],
        "processing": [{"method": method, "by": "synpol"}],
        "sources": [] if instances is None else [instances.path],
    }
    Store(place).write(_ABOUT, json.dumps(about, indent=1).encode())
