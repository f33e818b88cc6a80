"""Stage ``level``: make coarser resolution levels of an image, for a fast viewer at any zoom."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr

from synpol.blockwise.driver import Driver
from synpol.blockwise.grid import BlockGrid, index_of
from synpol.blockwise.records import Index
from synpol.blockwise.stage import ArrayStage
from synpol.files import join
from synpol.images.claim import Answer, answer_of, begun, claim_array, is_ours
from synpol.images.downsampling import label_of_cells, level_factors, mean_of_cells
from synpol.images.identity import hash_of, identity_of
from synpol.images.image import Image, levels_of, open_image, opened_array
from synpol.images.writing import complete, create_level, image_group, list_levels

#: side of a block, voxels; larger if the chunks are larger
BLOCK = 128


@dataclass(frozen=True)
class LevelArrays:
    """Open arrays of two successive resolution levels.

    Attributes
    ----------
    finer, coarser : zarr.Array
        Level to read and level to write, (z, y, x) or (channel, z, y, x).
    """

    finer: zarr.Array
    coarser: zarr.Array


@dataclass(frozen=True)
class LevelStage(ArrayStage[LevelArrays, np.ndarray]):
    """Make every block of a resolution level from the next finer level.

    Attributes
    ----------
    coarser, finer : str
        Paths or URLs of the level to write and of the level to read.
    factors : (int, int, int)
        Number of voxels of the finer level along each axis of a coarser voxel.
    labels : bool
        Whether the voxels are labels instead of grey values.
    blocks : BlockGrid
        Blocks of the level to write.
    """

    coarser: str
    finer: str
    factors: Index
    labels: bool
    blocks: BlockGrid

    name = "level"
    version = 1
    voxel_cost = 4

    def open(self) -> LevelArrays:
        return LevelArrays(
            finer=open_image(self.finer).array,
            coarser=open_image(self.coarser, mode="r+").array,
        )

    def target(self, opened: LevelArrays) -> zarr.Array:
        return opened.coarser

    def read(self, index: Index, opened: LevelArrays) -> np.ndarray:
        axes = zip(self.blocks.slices(index), self.factors, strict=True)
        z, y, x = (slice(coarse.start * f, coarse.stop * f) for coarse, f in axes)
        return np.asarray(opened.finer[..., z, y, x])

    def compute(self, index: Index, opened: LevelArrays, given: np.ndarray) -> np.ndarray | None:
        if not given.any():
            return None
        return (label_of_cells if self.labels else mean_of_cells)(given, self.factors)


def add_levels(driver: Driver, image: Image, labels: bool, *, fresh: bool = False) -> int:
    """Make the coarser resolution levels of an image, beside its full resolution.

    Existing levels are kept, unless synpol made them from another image.

    Parameters
    ----------
    driver : Driver
        Driver that runs the stages.
    image : Image
        Full resolution of an OME-Zarr 0.5 image.
    labels : bool
        Whether the voxels are labels (see `label_of_cells`) instead of grey values.
    fresh : bool
        Whether to make the levels again that synpol made. This is necessary when another program
        has rewritten the image in place.

    Returns
    -------
    int
        Number of coarser levels of the image.

    Raises
    ------
    InputError
        The image cannot have coarser levels.
    """
    path = image.path.rpartition("/")[0]
    factors = level_factors(image.shape_vx, image.voxel_size)
    digest = hash_of({"source": identity_of(image), "labels": labels, "code": LevelStage.version})
    existing = levels_of(image)
    if not factors or (existing and _are_kept(path, existing, digest, fresh)):
        return len(existing)
    image_group(image)
    if existing:
        list_levels(image, {})
    folder = driver.work_dir / f"level-{digest[:16]}"
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    finished: dict[str, Index] = {}
    finer = image
    for number, factor in enumerate(factors, start=1):
        name, total = f"s{number}", index_of(np.prod(factors[:number], axis=0))
        level = _level_to_write(image, name, total, digest, folder / name, fresh)
        blocks = BlockGrid.of(level.shape_vx, level.array.shards[-3:])  # type: ignore[index]
        driver.run(
            LevelStage(
                folder=folder / name,
                grid=blocks.grid,
                coarser=level.path,
                finer=finer.path,
                factors=factor,
                labels=labels,
                blocks=blocks,
            )
        )
        complete(level)
        finished[name], finer = total, level
    list_levels(image, finished)
    shutil.rmtree(folder, ignore_errors=True)
    return len(finished)


def _are_kept(path: str, names: Sequence[str], digest: str, fresh: bool) -> bool:
    """Return whether another program made the levels, or synpol made them from this image."""
    for name in names:
        array = opened_array(join(path, name))
        if array is not None and not is_ours(array):
            return True
        if answer_of(array, digest, fresh) is not Answer.FINISHED:
            return False
    return True


def _level_to_write(
    image: Image, name: str, factors: Index, digest: str, records: Path, fresh: bool
) -> Image:
    """Open the level that an interrupted run has begun, or create a new one."""
    claim = claim_array(
        join(image.path.rpartition("/")[0], name),
        digest,
        fresh=fresh,
        advice=f"remove it, or list it as a coarser level of {image.path}",
    )
    lead, chunks = image.array.chunks[:-3], index_of(image.array.chunks[-3:])
    block = [c * max(1, BLOCK // c) for c in chunks]
    return claim.image_to_write(
        lambda _: create_level(
            image,
            name,
            factors,
            chunk_shape=(*lead, *chunks),
            shard_shape=(*image.array.shape[:-3], *block),
            attributes=begun(digest),
        ),
        forget=[records],
    )
