"""Stage ``level``: coarser levels of an image, so that a viewer opens it fast at any zoom."""

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

#: side of the blocks that a level is made in, voxels, unless chunks are larger
BLOCK = 128


@dataclass(frozen=True)
class LevelArrays:
    """The arrays of two neighbouring levels, open.

    Attributes
    ----------
    finer, coarser : zarr.Array
        Level that is read, and level that is made; (z, y, x) or (channel, z, y, x).
    """

    finer: zarr.Array
    coarser: zarr.Array


@dataclass(frozen=True)
class LevelStage(ArrayStage[LevelArrays, np.ndarray]):
    """Make every block of one level from the level before.

    Attributes
    ----------
    coarser, finer : str
        Paths or URLs of the array to write and of the level before.
    factors : (int, int, int)
        Voxels of the level before that make one.
    labels : bool
        Whether voxels are labels instead of grey values.
    blocks : BlockGrid
        Of the array to write.
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
        sides = zip(self.blocks.slices(index), self.factors, strict=True)
        z, y, x = (slice(side.start * f, side.stop * f) for side, f in sides)
        return np.asarray(opened.finer[..., z, y, x])

    def compute(self, index: Index, opened: LevelArrays, given: np.ndarray) -> np.ndarray | None:
        if not given.any():
            return None
        return (label_of_cells if self.labels else mean_of_cells)(given, self.factors)


def add_levels(driver: Driver, image: Image, labels: bool, *, fresh: bool = False) -> int:
    """Make the coarser levels of an image, beside its full resolution.

    Levels that are there stay, unless synpol made them from something else.

    Parameters
    ----------
    driver : Driver
    image : Image
        The full resolution of an OME-Zarr 0.5 image.
    labels : bool
        Whether voxels are labels (see `label_of_cells`) instead of grey values.
    fresh : bool
        Make again what synpol made. Wanted where a foreign image was rewritten in place.

    Returns
    -------
    int
        How many coarser levels the image has.

    Raises
    ------
    InputError
        The image cannot get any.
    """
    path = image.path.rpartition("/")[0]
    factors = level_factors(image.shape_vx, image.voxel_size)
    digest = hash_of({"source": identity_of(image), "labels": labels, "code": LevelStage.version})
    there = levels_of(image)
    if not factors or (there and _stay(path, there, digest, fresh)):
        return len(there)
    image_group(image)
    if there:
        list_levels(image, {})
    folder = driver.work_dir / f"level-{digest[:16]}"
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    done: dict[str, Index] = {}
    finer = image
    for number, factor in enumerate(factors, start=1):
        name, total = f"s{number}", index_of(np.prod(factors[:number], axis=0))
        level = _level(image, name, total, digest, folder / name, fresh)
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
        done[name], finer = total, level
    list_levels(image, done)
    shutil.rmtree(folder, ignore_errors=True)
    return len(done)


def _stay(path: str, names: Sequence[str], digest: str, fresh: bool) -> bool:
    """Whether levels were made by somebody else, or by us of this image."""
    for name in names:
        array = opened_array(join(path, name))
        if array is not None and not is_ours(array):
            return True
        if answer_of(array, digest, fresh) is not Answer.FINISHED:
            return False
    return True


def _level(
    image: Image, name: str, factors: Index, digest: str, records: Path, fresh: bool
) -> Image:
    """Open the array of a level: as an interrupted run left it, or a new one."""
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
