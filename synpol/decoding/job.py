"""Decode a polarity array of any size: check the input, run the stages, write the table.

The result is, voxel for voxel and id for id, what `synpol.polarity2instance` gives on the whole
volume. All records lie in ``<work_dir>/decode-<hash>``. The hash is of everything on which the
result depends: another option gets another folder, and the same job finds its records again.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from funlib.geometry import Coordinate

from synpol.blockwise.driver import Driver
from synpol.blockwise.grid import BlockGrid
from synpol.blockwise.records import work_folder
from synpol.blockwise.run import records_of
from synpol.blockwise.schedulers import scheduler_of
from synpol.blockwise.sources import SourceStamps
from synpol.decoding.dilation import box_shape, checked_box, lacks_sections
from synpol.decoding.label import FLOAT_SCALE
from synpol.decoding.merge import grouped_as_begun
from synpol.decoding.number import NumberStage
from synpol.decoding.reference import check_options
from synpol.decoding.stages import DecodeOptions, decode_hash, decoding_stages
from synpol.decoding.target import ADVICE, Target, check_output
from synpol.errors import InputError
from synpol.files import is_url, join, write_whole
from synpol.images.claim import SETTINGS, begun, claim_image
from synpol.images.image import Image, check_readable, open_image
from synpol.images.run_id import bind_records
from synpol.images.writing import check_writable, complete, create_image, inner_chunks
from synpol.polarity import Channels
from synpol.synapses.table import synapse_rows, write_synapses

if TYPE_CHECKING:
    from synpol.config import Workers

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decoded:
    """Result of a decoding.

    Attributes
    ----------
    instances : str
        Path or URL of the instances array.
    components : int
        Number of components of the dilated union; the largest synapse number that can occur.
    synapses : int or None
        Number of rows of the synapse table, where one was asked for.
    """

    instances: str
    components: int
    synapses: int | None


def decode_blockwise(
    prediction: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    block_shape: Sequence[int],
    num_workers: int = 1,
    thres: float = 0.5,
    thres_small: int = 128,
    dilate_sz: int | Sequence[int] = 5,
    exclusive: bool = False,
    semantic: bool = False,
    scale_factors: Sequence[float] = (1, 1, 1),
    sides: bool = True,
    synapses: str | os.PathLike[str] | None = None,
    work_dir: str | os.PathLike[str] | None = None,
    fresh: bool = False,
    workers: Workers | None = None,
) -> Decoded:
    """Group the voxels of a polarity array of any size into synapses.

    Called again after any interruption it finishes the job; called with other options it redoes
    what depends on them.

    Parameters
    ----------
    prediction : path or URL
        A ``polarity`` array (3, z, y, x): uint8 is 0..255 for the probability 0..1, float is 0..1.
        Only a synapse table needs to know its voxel size.
    output : path or URL
        Container in which ``instances/s0`` is written: (z, y, x) uint64.
    block_shape : 3 ints
        Voxels (z, y, x) that a worker decodes at once. Any shape gives the same result.
    num_workers : int
        Workers at most; a single one on this machine is the calling process itself.
    thres, thres_small, dilate_sz, exclusive, semantic, sides
        As in `synpol.polarity2instance`.
    scale_factors : 3 numbers
        As in `synpol.polarity2instance`: the instances are resized by nearest neighbour. Their
        voxel size has to come out whole; the synapse table is of the full resolution, so there is
        none beside resized instances.
    synapses : path or URL, optional
        Parquet file that gets the synapse table (see `synpol.synapses.table`).
    work_dir : path, optional
        Folder for records, the lock and logs, shared by all workers; by default
        ``<output>.work``, to be given where `output` is remote.
    fresh : bool
        Do all of it again, whatever was done before. A rerun notices by itself that a foreign
        prediction was rewritten in place.
    workers : synpol.config.Workers, optional
        Where workers run and with what; by default as processes on this machine. How many is said
        by `num_workers`.

    Returns
    -------
    Decoded

    Raises
    ------
    InputError
        The input or an option cannot be used, or another driver works in `work_dir`.
    RuntimeError
        Blocks failed; what is done is kept.

    Examples
    --------
    A synapse whose two sides lie in different blocks:

    >>> import numpy as np
    >>> from synpol import decode_blockwise, seg_to_polarity
    >>> from synpol.images.image import open_image
    >>> from synpol.images.writing import create_image
    >>> label = np.zeros((8, 32, 32), np.uint64)
    >>> label[2:6, 8:16, 8:16], label[2:6, 8:16, 16:24] = 1, 2
    >>> image = create_image(
    ...     "volume",
    ...     "polarity",
    ...     shape=(3, 8, 32, 32),
    ...     dtype=np.uint8,
    ...     voxel_size=(30, 16, 16),
    ...     offset=(0, 0, 0),
    ...     unit="nm",
    ...     chunk_shape=(3, 8, 16, 16),
    ... )
    >>> image.array[:] = 255 * seg_to_polarity(label)
    >>> decoded = decode_blockwise(
    ...     "volume/polarity", "volume", block_shape=(8, 16, 16), synapses="volume/synapses.parquet"
    ... )
    >>> decoded.synapses
    1
    >>> bool((open_image(decoded.instances).array[:] == label).all())
    True

    The table has one row for it:

    >>> import pyarrow.parquet as pq
    >>> row = pq.read_table("volume/synapses.parquet").to_pylist()[0]
    >>> row["pre_voxels"], row["pre_x"], row["post_x"]  # voxels, nm, nm
    (256, 192.0, 320.0)
    """
    if int(num_workers) != num_workers or num_workers < 1:
        raise InputError(f"num_workers is {num_workers}; a whole number from 1 on is expected")
    scheduler_of(workers)  # refuses a name that nobody knows
    source = open_image(prediction, channels=Channels.count, bare=synapses is None)
    check_readable(source)
    dtype = source.array.dtype
    if dtype != np.uint8 and dtype.kind != "f":
        raise InputError(f"{source.path} is {dtype}; uint8 (0..255) or float (0..1) is expected")
    check_options(source.array.shape, thres, thres_small, dilate_sz, dtype)
    if min(source.array.shape) < 1:
        raise InputError(
            f"{source.path} has the shape {source.array.shape}: there is nothing in it"
        )
    stored = source.array.attrs.get(SETTINGS)
    if isinstance(stored, dict) and stored.get("exclusive") != bool(exclusive):
        raise InputError(
            f"{source.path} was predicted with exclusive = {stored.get('exclusive')}, but is to be "
            f"decoded with exclusive = {bool(exclusive)}"
        )
    if semantic and synapses is not None:
        raise InputError("a semantic result has no numbers, so it has no synapse table")
    blocks = BlockGrid.of(source.shape_vx, block_shape)
    target = Target.of(source, blocks, scale_factors)
    if synapses is not None and target.blocks.shape != blocks.shape:
        raise InputError(
            f"scale_factors is {tuple(scale_factors)}: a synapse table says what is in the "
            "instances at full resolution; decode without scale_factors for the table"
        )
    options = DecodeOptions(
        blocks.block,
        float(thres),
        int(thres_small),
        checked_box(dilate_sz),
        bool(exclusive),
        bool(semantic),
        bool(sides),
        tuple(float(f) for f in scale_factors),
    )
    if synapses is not None and sides and lacks_sections(options.dilate_sz, source.voxel_size):
        side = max(box_shape(options.dilate_sz))
        _log.warning(
            "%s has voxels of %s %s, nearly as thick as wide, but the dilation joins the sides of "
            "a synapse within a section alone: those with a cleft along z come apart. "
            "decode.dilate_sz=[%d,%d,%d] joins them along z too",
            *(source.path, tuple(source.voxel_size), source.unit, side, side, side),
        )
    work = work_folder(output, work_dir)
    digest = decode_hash(source, options)
    check_output(output, target, fresh)
    if synapses is not None and not is_url(synapses):
        if Path(synapses).is_dir():
            raise InputError(f"synapses is {synapses}, which is a folder; a file is expected")
        check_writable(Path(synapses).parent)
    check_writable(output)
    check_writable(work)
    what = f"decoding of {source.path}"
    with Driver(work, what, int(num_workers), workers, output=output) as driver:
        folder = work / f"decode-{digest[:16]}"
        stamps = SourceStamps.of(records_of(work, "decode", output, digest), [source])
        if stamps.rewritten() and not fresh:
            _log.warning("%s was written anew since it was decoded; decoding it again", source.path)
            fresh = True
        if fresh:
            shutil.rmtree(folder, ignore_errors=True)
        blocks = grouped_as_begun(blocks, folder)
        job = _Job(source, target, str(output), options, blocks, folder, digest)
        return job.run(driver, synapses, fresh, stamps)


@dataclass(frozen=True)
class _Job:
    source: Image
    target: Target
    output: str
    options: DecodeOptions
    blocks: BlockGrid
    folder: Path
    digest: str

    def run(
        self,
        driver: Driver,
        synapses: str | os.PathLike[str] | None,
        fresh: bool,
        stamps: SourceStamps,
    ) -> Decoded:
        self.folder.mkdir(parents=True, exist_ok=True)
        for old in driver.work_dir.glob("decode-*"):
            if old != self.folder:
                shutil.rmtree(old)
        about = asdict(self.options) | {"shape": self.blocks.shape}
        write_whole(self.folder / "job.json", json.dumps(about, indent=1).encode(), sync=False)
        instances = self._prepare_instances(synapses, fresh)
        stamps.keep()
        stages = decoding_stages(
            prediction=self.source.path,
            dtype=self.source.array.dtype,
            output=self.output,
            folder=self.folder,
            blocks=self.blocks,
            target=self.target.blocks,
            options=self.options,
        )
        self._prepare_full_resolution()
        bind_records(instances, stages[-1].folder)
        for stage in stages:
            driver.run(stage)
        complete(instances, stages[-1].folder)
        number = next(stage for stage in stages if isinstance(stage, NumberStage))
        count = None
        if synapses is not None:
            count = write_synapses(synapses, self._table(number), self.options.sides)
        return Decoded(instances.path, number.numbering().count, count)

    @property
    def _is_rescaled(self) -> bool:
        return self.target.blocks.shape != self.blocks.shape

    def _prepare_full_resolution(self) -> None:
        """Make the array that the stage ``relabel`` fills, where that is not the output."""
        if not self._is_rescaled:
            return
        folder, blocks, voxel_size = str(self.folder), self.blocks, self.source.voxel_size
        claim_image(join(folder, "instances"), self.digest).image_to_write(
            lambda overwrite: self._create(folder, blocks, voxel_size, overwrite),
            forget=[self.folder / "relabel-full"],
        )

    def _create(
        self,
        container: str,
        blocks: BlockGrid,
        voxel_size: Coordinate,
        overwrite: bool,
        chunks: tuple[int, ...] | None = None,
        shards: tuple[int, ...] | None = None,
    ) -> Image:
        return create_image(
            container,
            "instances",
            shape=blocks.shape,
            dtype=self.options.dtype,
            voxel_size=voxel_size,
            offset=self.source.offset,
            unit=self.source.unit,
            chunk_shape=chunks or inner_chunks(blocks.block),
            shard_shape=shards if chunks else blocks.block,
            attributes=begun(
                self.digest,
                {k: v for k, v in asdict(self.options).items() if k != "block_shape"},
            ),
            placed=self.source.placed,
            overwrite=overwrite,
        )

    def _prepare_instances(self, synapses: str | os.PathLike[str] | None, fresh: bool) -> Image:
        """Open or create the output, in the chunks of an output of the same shape."""
        path = join(self.output, "instances")
        claim = claim_image(path, self.digest, fresh=fresh, advice=ADVICE, replace_empty=True)

        def create(overwrite: bool) -> Image:
            blocks, voxel_size, old = self.target.blocks, self.target.voxel_size, claim.found
            chunks: tuple[int, ...] | None = None
            shards: tuple[int, ...] | None = None
            if old is not None and tuple(old.array.shape) == blocks.shape:
                chunks, shards = old.array.chunks, old.array.shards
            return self._create(self.output, blocks, voxel_size, overwrite, chunks, shards)

        stages = ("relabel", "rescale")
        forget = [records_of(self.folder, stage, self.output) for stage in stages]
        if synapses is not None and not is_url(synapses):
            forget.append(Path(synapses))
        return claim.image_to_write(create, forget)

    def _table(self, numbers: NumberStage) -> Iterator[pa.Table]:
        scale = 255.0 if self.source.array.dtype.kind == "u" else float(FLOAT_SCALE)
        before = 0
        for layer in range(numbers.grid[0]):
            rows = numbers.layer(layer)
            count = len(rows.synapse)
            number = np.arange(before + 1, before + count + 1, dtype=np.uint64)
            before += count
            yield synapse_rows(
                number,
                rows,
                self.source,
                scale,
                exclusive=self.options.exclusive,
                sides=self.options.sides,
            )
