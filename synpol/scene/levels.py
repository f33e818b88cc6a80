"""Stage ``level``: make coarser resolution levels of an image, for a fast viewer at any zoom."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from synpol.blockwise.driver import Driver
from synpol.blockwise.grid import BlockGrid, index_of
from synpol.blockwise.image_stage import ImageStage, OpenImages
from synpol.blockwise.records import Index
from synpol.blockwise.run import fill_image
from synpol.files import join
from synpol.images.claim import Answer, answer_of, begun, claim_array, is_ours
from synpol.images.downsampling import label_of_cells, level_factors, mean_of_cells
from synpol.images.groups import levels_of
from synpol.images.identity import hash_of, identity_of
from synpol.images.image import Image
from synpol.images.nodes import opened_array
from synpol.images.reading import read_voxels
from synpol.images.run_id import forget_leftover
from synpol.images.writing import create_level, image_group, list_levels

#: side of a block, voxels; larger if the chunks are larger
BLOCK = 128


@dataclass(frozen=True, kw_only=True)
class LevelStage(ImageStage):
    """Make every block of one resolution level from the level before.

    Attributes
    ----------
    factors : (int, int, int)
        Number of voxels of the level before, along z, y, x, that make one voxel.
    labels : bool
        Whether voxels are labels instead of grey values.
    """

    factors: Index
    labels: bool

    name = "level"
    version = 1
    voxel_cost = 4

    def read(self, index: Index, opened: OpenImages) -> np.ndarray:
        sides = zip(self.blocks.slices(index), self.factors, strict=True)
        z, y, x = (slice(side.start * f, side.stop * f) for side, f in sides)
        return read_voxels(opened.source, (..., z, y, x), self.source)

    def compute(self, index: Index, opened: OpenImages, given: np.ndarray) -> np.ndarray | None:
        return super().compute(index, opened, given) if given.any() else None

    def transform(self, voxels: np.ndarray) -> np.ndarray:
        return (label_of_cells if self.labels else mean_of_cells)(voxels, self.factors)


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
        Number of coarser levels that the image has.

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
    done: dict[str, Index] = {}
    finer = image.path
    for number, factor in enumerate(factors, start=1):
        name, total = f"s{number}", index_of(np.prod(factors[:number], axis=0))
        stage = LevelStage(folder=folder / name, source=finer, factors=factor, labels=labels)
        finer = _make_level(driver, image, name, total, stage, digest, fresh).path
        done[name] = total
    list_levels(image, done)
    shutil.rmtree(folder, ignore_errors=True)
    return len(done)


def _are_kept(path: str, names: Sequence[str], digest: str, fresh: bool) -> bool:
    """Tell whether levels were made by others, or by synpol from this image."""
    for name in names:
        array = opened_array(join(path, name))
        if array is not None and not is_ours(array):
            return True
        if array is None or answer_of(array, digest, fresh) is not Answer.FINISHED:
            return False
        forget_leftover(array)
    return True


def _make_level(
    driver: Driver,
    image: Image,
    name: str,
    factors: Index,
    stage: LevelStage,
    digest: str,
    fresh: bool,
) -> Image:
    """Make one level, or finish what an interrupted run left of it.

    Parameters
    ----------
    driver, image, fresh
        As in `add_levels`.
    name : str
        Name of the array.
    factors : (int, int, int)
        Number of voxels of the full resolution, along z, y, x, that make one voxel.
    stage : LevelStage
        Stage that makes the level; which array it writes is not known yet.
    digest : str
        Hash of everything on which the level depends.
    """
    lead, chunks = image.array.chunks[:-3], index_of(image.array.chunks[-3:])
    block = [c * max(1, BLOCK // c) for c in chunks]

    def create(_: bool) -> Image:
        return create_level(
            image,
            name,
            factors,
            chunk_shape=(*lead, *chunks),
            shard_shape=(*image.array.shape[:-3], *block),
            attributes=begun(digest),
        )

    def stage_of(level: Image) -> LevelStage:
        blocks = BlockGrid.of(level.shape_vx, level.array.shards[-3:])  # type: ignore[index]
        return replace(stage, output=level.path, blocks=blocks)

    claim = claim_array(
        join(image.path.rpartition("/")[0], name),
        digest,
        fresh=fresh,
        advice=f"remove it, or list it as a coarser level of {image.path}",
    )
    return fill_image(driver, claim, create, stage_of, forget=[stage.folder])
