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
from synpol.blockwise.records import Done, Index, work_folder, write_record
from synpol.blockwise.run import all_records_of, records_of
from synpol.blockwise.stage import VoxelStage
from synpol.errors import InputError
from synpol.files import is_url
from synpol.images.claim import check_complete
from synpol.images.downsampling import label_of_cells, level_factors
from synpol.images.identity import hash_of, identity_of
from synpol.images.image import Image, open_image
from synpol.images.precomputed import DRIVER, SCHEME
from synpol.images.stores import Store
from synpol.images.writing import check_writable

if TYPE_CHECKING:
    import tensorstore

    from synpol.config import ImageSource, Workers

#: voxels along each side of a chunk
CHUNK = 64
#: chunks in a shard, as a power of two; 2 of it are the chunks that share an index within it
_SHARD_BITS, _INDEX_BITS = 5, 2
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

    def spec(self) -> dict[str, Any]:
        """Describe it to tensorstore."""
        about: dict[str, Any] = {
            "key": self.key,
            "resolution": [int(v) if v == int(v) else v for v in self.size[::-1]],
            "voxel_offset": self.begin[::-1],
            "size": self.shape[::-1],
            "chunk_size": [CHUNK] * 3,
            "encoding": "compressed_segmentation",
            "compressed_segmentation_block_size": [8, 8, 8],
        }
        bits = sum((-(-n // CHUNK) - 1).bit_length() for n in self.shape)
        if bits > _SHARD_BITS:  # else there are so few chunks that each may be a file
            about["sharding"] = {
                "@type": "neuroglancer_uint64_sharded_v1",
                "hash": "identity",
                "preshift_bits": _SHARD_BITS - _INDEX_BITS,
                "minishard_bits": _INDEX_BITS,
                "shard_bits": bits - _SHARD_BITS,
                "data_encoding": "gzip",
                "minishard_index_encoding": "gzip",
            }
        return {
            "multiscale_metadata": {
                "type": "segmentation",
                "data_type": "uint64",
                "num_channels": 1,
            },
            "scale_metadata": about,
        }


@dataclass(frozen=True)
class OpenLevels:
    """Open arrays, (z, y, x).

    Attributes
    ----------
    source : array
        Instances, or the resolution before.
    target : tensorstore.TensorStore
        Resolution to write.
    """

    source: Any
    target: tensorstore.TensorStore


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
        source: Any
        if self.number:
            source = _opened(self.place, self.levels[self.number - 1])
        else:
            source = open_image(self.instances, channels=0).array
        return OpenLevels(source, _opened(self.place, self.levels[self.number]))

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
        voxels = source.read().result() if self.number else source
        return np.pad(np.asarray(voxels, np.uint64), missing) if np.any(missing) else voxels

    def compute(self, index: Index, opened: OpenLevels, given: np.ndarray) -> np.ndarray:
        factors = self.levels[self.number].factors
        return label_of_cells(given, factors) if max(factors) > 1 else given

    def write(self, index: Index, opened: OpenLevels, result: np.ndarray) -> None:
        import tensorstore

        with tensorstore.Transaction() as whole_shard:
            opened.target.with_transaction(whole_shard)[self.blocks.slices(index)] = result
        write_record(self.folder, index, Done())


def _opened(place: str, level: Level) -> tensorstore.TensorStore:
    """Open a resolution as (z, y, x) from 0 on, or make it."""
    stored = Store(place).open(
        DRIVER, write=True, store_data_equal_to_fill_value=True, **level.spec()
    )
    return stored.T[0].translate_to[0, 0, 0]


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
    with Driver(work, f"segmentation in {place}", num_workers, workers) as driver:
        if _claimed(place, digest, work):
            return len(levels)
        folder = records_of(work, SegmentationStage.name, place, digest)
        for number, level in enumerate(levels):
            shard = _opened(place, level).chunk_layout.write_chunk.shape or ()
            stage = SegmentationStage(
                folder=folder / level.key,
                instances=instances.source,
                place=place,
                levels=levels,
                number=number,
                blocks=BlockGrid.of(level.shape, shard),
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
    return not folder.is_dir() or any(folder.iterdir())


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
