"""Check the arrays of a result: their chunks, the sizes of their files, their coarser levels."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from synpol.blockwise.grid import BlockGrid, index_of
from synpol.blockwise.records import DamagedRecord, read_arrays
from synpol.blockwise.run import records_of
from synpol.blockwise.stage import blocks_of
from synpol.connectivity.rows import grouped, totals
from synpol.decoding.rescale import rescaled_blocks
from synpol.errors import InputError
from synpol.files import join
from synpol.images.blocks import files_of, folder_of
from synpol.images.claim import is_ours
from synpol.images.downsampling import level_factors
from synpol.images.groups import image_path, levels_of
from synpol.images.image import Image, open_image
from synpol.images.metadata import HASH
from synpol.verification.problem import Commands, Problem
from synpol.verification.stage import Checked, ReadStage, blocks_to_read

#: what is said about a chunk that cannot be read
DAMAGED = "its content does not have its checksum, or cannot be decoded"
#: number of blocks whose labels are listed before equal ones are added up
_RECORDS_AT_ONCE = 1000


@dataclass
class Labels:
    """Labels of an array and how many voxels each has, sorted.

    Attributes
    ----------
    label : (n,) uint64
    voxels : (n,) int64
    """

    label: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))
    voxels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))


@dataclass(frozen=True)
class Records:
    """What the records of an array say about its files.

    Attributes
    ----------
    folder : Path
        Folder of the records.
    blocks : BlockGrid
        Blocks that have a record each.
    """

    folder: Path
    blocks: BlockGrid

    def know_sizes(self) -> bool:
        """Tell whether the records say how large files are; old ones and remote ones do not."""
        try:
            return bool(read_arrays(self.folder, (0, 0, 0)).get("sizes", np.zeros(0)).size)
        except (FileNotFoundError, DamagedRecord):
            return False

    def changed(self, image: Image) -> Iterator[tuple[Path, str]]:
        """Find the files that are not as large as they were written."""
        root = folder_of(image.array)
        if root is None:
            return
        for index in blocks_of(self.blocks.grid):
            try:
                noted = read_arrays(self.folder, index).get("sizes")
            except (FileNotFoundError, DamagedRecord):
                continue
            if noted is None:
                continue
            files = files_of(image.array, root, self.blocks.slices(index))
            for file, size in zip(files, noted.tolist(), strict=False):  # older records have none
                now = file.stat().st_size if file.is_file() else -1
                if now == size:
                    continue
                if now < 0:
                    yield file, f"it is missing; {size} bytes were written"
                elif size < 0:
                    yield file, f"it has {now} bytes; nothing was written there"
                else:
                    yield file, f"it has {now} bytes; {size} were written"


def records_of_polarity(image: Image, output: str, work: Path) -> Records | None:
    """Return the records of a prediction; None where they are not in this work folder."""
    folder = records_of(work, "predict", output, str(image.array.attrs.get(HASH)))
    if not is_ours(image.array) or not folder.is_dir():
        return None
    return Records(folder, BlockGrid.of(image.shape_vx, _cell(image)))


def records_of_instances(image: Image, output: str, work: Path) -> Records | None:
    """Return the records of a decoding; None where they are not in this work folder."""
    folder = work / f"decode-{str(image.array.attrs.get(HASH))[:16]}"
    try:
        about = json.loads((folder / "job.json").read_bytes())
        blocks = BlockGrid.of(about["shape"], about["block_shape"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    resized = blocks.shape != index_of(image.shape_vx)
    if resized:
        blocks = rescaled_blocks(blocks, index_of(image.shape_vx))
    records = records_of(folder, "rescale" if resized else "relabel", output)
    return Records(records, blocks) if records.is_dir() else None


@dataclass(frozen=True, kw_only=True)
class ArrayCheck:
    """Check an image of a result.

    Attributes
    ----------
    image : Image
        Full resolution.
    half : str
        Half of pipelines/predict_blockwise.py that writes it: predict or decode.
    records : Records or None
        Records of its blocks.
    commands : Commands
        Commands that make it right.
    run : callable
        Runs a stage and returns it with its folder.
    """

    image: Image
    half: str
    records: Records | None
    commands: Commands
    run: Callable[[ReadStage], ReadStage]

    def check(self) -> tuple[list[Problem], Labels]:
        """Read the full resolution; returns what is wrong, and the labels of instances."""
        changed = {}
        if self.records is not None:
            changed = {str(file): said for file, said in self.records.changed(self.image)}
        redo = self.commands.run("predict_blockwise", "--only", self.half)
        problems = [Problem(file, said, redo) for file, said in changed.items()]
        stage = ReadStage(
            blocks=_blocks(self.image),
            source=self.image.source,
            count_labels=self.half == "decode",
        )
        damaged, _, labels = read_all(self.run(stage))
        files = [join(self.image.path, name) for name in damaged]
        problems += [Problem(f, DAMAGED, self._redo(f)) for f in files if f not in changed]
        return problems, labels

    def _redo(self, file: str) -> str:
        """Return the command that writes a damaged file of the full resolution anew."""
        if not is_ours(self.image.array):
            return f"copy {file} anew from where it came"
        noted = self.records is not None and self.records.know_sizes()
        options = ["--only", self.half] + ([] if noted else ["--fresh"])
        return self.commands.run("predict_blockwise", *options, remove=file if noted else "")

    def check_levels(self) -> list[Problem]:
        """Read the coarser levels, and compare those of synpol with the finer one."""
        group, problems = image_path(self.image), []
        factors = level_factors(self.image.shape_vx, self.image.voxel_size)
        options = ["--levels", "prediction"] if self.half == "predict" else []
        redo = self.commands.run("view", "--prepare", "--fresh", *options)
        finer = self.image.path
        for number, name in enumerate(levels_of(self.image)):
            path = join(group, name)
            try:
                level = open_image(path, inside=False)
            except InputError as error:
                problems.append(Problem(path, str(error), redo))
                break
            known = is_ours(level.array) and number < len(factors)
            stage = ReadStage(
                blocks=_blocks(level),
                source=path,
                finer=finer if known else "",
                factors=factors[number] if known else (1, 1, 1),
                labels=self.half == "decode",
            )
            damaged, differs, _ = read_all(self.run(stage))
            problems += [Problem(join(path, n), DAMAGED, redo) for n in damaged]
            if differs:
                found = f"{differs} blocks are not what {finer} gives"
                problems.append(Problem(path, found, redo))
            finer = path
        return problems


def read_all(stage: ReadStage) -> tuple[list[str], int, Labels]:
    """Read the records of a stage.

    Returns
    -------
    damaged : list of str
        Names of the chunk files that cannot be read.
    differs : int
        Number of blocks of a coarser level that are not what the finer one gives.
    labels : Labels
        Labels of all blocks.
    """
    damaged: list[str] = []
    differs, parts = 0, [Labels()]
    for record in stage.records(Checked):
        damaged += record.names
        differs += int(record.differs)
        parts.append(Labels(record.label, record.voxels))
        if len(parts) > _RECORDS_AT_ONCE:
            parts = [_added(parts)]
    return sorted(set(damaged)), differs, _added(parts)


def _added(parts: list[Labels]) -> Labels:
    (label,), into = grouped([np.concatenate([part.label for part in parts])])
    voxels = np.concatenate([part.voxels for part in parts])
    return Labels(label, totals(voxels, into, len(label)))


def _blocks(image: Image) -> BlockGrid:
    shape = image.shape_vx
    return BlockGrid.of(shape, blocks_to_read(shape, _cell(image)))


def _cell(image: Image) -> tuple[int, ...]:
    """Return the voxels of one chunk file along z, y, x."""
    return tuple((getattr(image.array, "shards", None) or image.array.chunks)[-3:])
