"""Run one stage with one call: lock, workers, progress, resuming, and the image to write.

Jobs with several stages use a `Driver` themselves.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from synpol.blockwise.driver import Driver
from synpol.blockwise.grid import BlockGrid
from synpol.blockwise.image_stage import ImageStage
from synpol.blockwise.records import work_folder
from synpol.blockwise.stage import AnyStage, Stage
from synpol.errors import InputError
from synpol.files import is_url, join
from synpol.images.claim import Answer, Claim, begun, claim_image
from synpol.images.identity import hash_of, identity_of
from synpol.images.image import Image, open_image
from synpol.images.run_id import bind_records, forget_leftover
from synpol.images.writing import check_writable, complete, create_image, inner_chunks

if TYPE_CHECKING:
    from synpol.config import ImageSource, Workers

#: attribute of an image that `run_image_stage` makes: the name of the stage
STAGE = "synpol_stage"


def run_stage[S: Stage[Any, Any, Any]](
    stage: S,
    work_dir: str | os.PathLike[str],
    *,
    num_workers: int = 1,
    workers: Workers | None = None,
) -> S:
    """Do the blocks of a stage that are not done yet.

    Called again after any interruption it does the missing blocks.

    Parameters
    ----------
    stage : Stage
        The stage. One without a `folder` gets a folder in `work_dir` for its records. The name of
        this folder holds a hash of the stage's name, version and fields: when one of them changes,
        all blocks are done again.
    work_dir : path
        Folder for records, the lock and logs, shared by all workers.
    num_workers : int
        Largest number of workers; a single one on this machine is the calling process itself.
    workers : synpol.config.Workers, optional
        Where workers run and with what; by default as processes on this machine.

    Returns
    -------
    Stage
        The stage with its folder, ready to read its records: see `Stage.records`.

    Raises
    ------
    InputError
        A block found that the input cannot be used, or another driver works in `work_dir`.
    RuntimeError
        Blocks failed; what is done is kept.
    """
    if not stage.count:
        raise InputError(
            f"the stage {stage.name!r} has no blocks; give it `blocks`, or run a stage that makes "
            "an image from another with run_image_stage"
        )
    work = work_folder("", work_dir)
    if stage.folder == Path():
        digest = hash_of([stage.name, stage.version, options_of(stage)])
        stage = replace(stage, folder=work / f"{stage.name}-{digest[:16]}")
    check_writable(work)
    with Driver(work, stage.name, num_workers, workers) as driver:
        driver.run(stage)
    return stage


def run_image_stage(
    stage: ImageStage,
    source: str | os.PathLike[str] | ImageSource,
    output: str | os.PathLike[str],
    *,
    block_shape: Sequence[int],
    num_workers: int = 1,
    work_dir: str | os.PathLike[str] | None = None,
    fresh: bool = False,
    workers: Workers | None = None,
) -> Image:
    """Make an image from another image, block by block.

    Called again after any interruption it finishes the image; called for another source, other
    options, other blocks or another version of the stage it makes the image anew.

    Parameters
    ----------
    stage : ImageStage
        The stage with its options.
    source : path or URL, or ImageSource
        Image to read; (z, y, x) or (channel, z, y, x).
    output : path or URL
        Container in which ``<name of the stage>/s0`` is written.
    block_shape : 3 ints
        Voxels (z, y, x) that a worker does at once.
    num_workers : int
        Largest number of workers; a single one on this machine is the calling process itself.
    work_dir : path, optional
        Folder for records, the lock and logs, shared by all workers; by default
        ``<output>.work``, to be given where `output` is remote.
    fresh : bool
        Do all of it again, whatever was done before. Wanted where a foreign source was rewritten in
        place: its path and metadata are all that a rerun looks at.
    workers : synpol.config.Workers, optional
        Where workers run and with what; by default as processes on this machine.

    Returns
    -------
    Image
        The finished image.

    Raises
    ------
    InputError
        The source cannot be used, something else lies where the image is to be written, or another
        driver works in `work_dir`.
    RuntimeError
        Blocks failed; what is done is kept.
    """
    image = open_image(source)
    blocks = BlockGrid.of(image.shape_vx, block_shape)
    options = options_of(stage, but={"blocks", "source", "output"})
    digest = hash_of([stage.name, stage.version, options, identity_of(image), blocks.block])
    claim = _claim(stage, image, output, digest, fresh)
    if claim.answer is Answer.FINISHED and claim.found is not None:
        forget_leftover(claim.found.array)
        return claim.found
    work = work_folder(output, work_dir)
    check_writable(output)
    check_writable(work)
    folder = records_of(work, stage.name, output, digest)

    def create(overwrite: bool) -> Image:
        lead = image.array.shape[:-3]
        if stage.channels is not None:
            lead = (stage.channels,) if stage.channels else ()
        return create_image(
            output,
            stage.name,
            shape=(*lead, *blocks.shape),
            dtype=image.array.dtype if stage.dtype is None else stage.dtype,
            voxel_size=image.voxel_size,
            offset=image.offset,
            unit=image.unit,
            chunk_shape=(*[1] * len(lead), *inner_chunks(blocks.block)),
            shard_shape=(*lead, *blocks.block),
            attributes=begun(digest) | {STAGE: stage.name},
            placed=image.placed,
            overwrite=overwrite,
        )

    what = f"{stage.name} of {image.path}"
    with Driver(work, what, num_workers, workers, output=output) as driver:
        claim = _claim(stage, image, output, digest, fresh)
        if claim.answer is Answer.FINISHED and claim.found is not None:
            return claim.found  # another run has finished it meanwhile, and removed its records
        made = fill_image(
            driver,
            claim,
            create,
            lambda new: replace(
                stage, folder=folder, blocks=blocks, source=image.source, output=new.path
            ),
            forget=all_records_of(work, stage.name, output),
        )
        shutil.rmtree(folder, ignore_errors=True)
    return made


def fill_image(
    driver: Driver,
    claim: Claim,
    create: Callable[[bool], Image],
    stage_of: Callable[[Image], AnyStage],
    forget: Iterable[Path] = (),
) -> Image:
    """Fill an image by a stage: an image of this job that is there already, or a new one.

    Parameters
    ----------
    driver : Driver
        Driver that runs the stage.
    claim : Claim
        What lies where the image is to be written.
    create, forget
        As in `Claim.image_to_write`.
    stage_of : callable
        Returns the stage that fills an image.

    Returns
    -------
    Image
        The finished image.
    """
    image = claim.image_to_write(create, forget)
    stage = stage_of(image)
    bind_records(image, stage.folder)
    driver.run(stage)  # of a finished image too: blocks without a record are done again
    complete(image, stage.folder)
    return image


def records_of(work: Path, stage: str, output: str | os.PathLike[str], digest: str = "") -> Path:
    """Return the folder of the records that belong to one output; others may share a work folder.

    Parameters
    ----------
    work : Path
        Work folder.
    stage : str
        Name of the stage.
    output : path or URL
        Where the stage writes.
    digest : str
        Hash of everything on which the output depends, where the work folder does not say it.
    """
    name = f"{stage}-{hash_of(str(Path(output).resolve()))[:8]}"
    return work / (f"{name}-{digest[:16]}" if digest else name)


def all_records_of(work: Path, stage: str, output: str | os.PathLike[str]) -> list[Path]:
    """Return every folder of records that belong to one output, whatever it depended on."""
    return list(work.glob(f"{records_of(work, stage, output).name}-*"))


def options_of(stage: AnyStage, but: Iterable[str] = ()) -> dict[str, Any]:
    """Return the fields of a stage as what JSON has, without its folder.

    Parameters
    ----------
    stage : Stage
        The stage.
    but : iterable of str
        More fields to leave out.

    Raises
    ------
    TypeError
        A field is neither a number, a text, a path, nor a tuple, list, dict or dataclass of those.
    """
    left_out = {"folder", "grid", *but}
    names = [field.name for field in fields(stage) if field.name not in left_out]
    return {name: _plain(f"{stage.name}.{name}", getattr(stage, name)) for name in names}


def _plain(name: str, value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple | list):
        return [_plain(name, item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(name, item) for key, item in value.items()}
    if is_dataclass(value):
        return {f.name: _plain(name, getattr(value, f.name)) for f in fields(value)}
    raise TypeError(
        f"{name} is a {type(value).__name__}; the fields of a stage are numbers, texts, paths, and "
        "tuples, lists, dicts or dataclasses of those"
    )


def _claim(
    stage: ImageStage, source: Image, output: str | os.PathLike[str], digest: str, fresh: bool
) -> Claim:
    """Look at what lies where a stage is to write an image.

    Raises
    ------
    InputError
        It is not an image that this stage has made, or it is the source.
    """
    path, advice = join(output, stage.name), "remove it, or give another output"
    claim = claim_image(path, digest, fresh=fresh, advice=advice)
    if claim.found is not None and claim.found.array.attrs.get(STAGE) != stage.name:
        raise InputError(
            f"{claim.found.path} exists and was not made by the stage {stage.name!r}; {advice}"
        )
    if claim.found is not None and _place(claim.found) == _place(source):
        raise InputError(
            f"{source.path} is both the source and the image to write; give another output"
        )
    return claim


def _place(image: Image) -> str:
    return image.path if is_url(image.path) else str(Path(image.path).resolve())
