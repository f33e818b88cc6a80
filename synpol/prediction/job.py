"""A prediction: what is to be done, the array it goes into, and running it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from synpol.blockwise.driver import Driver
from synpol.blockwise.grid import BlockGrid, index_of
from synpol.blockwise.records import work_folder
from synpol.config import Config
from synpol.errors import InputError
from synpol.files import join
from synpol.images.claim import begun, claim_image
from synpol.images.identity import hash_of, identity_of
from synpol.images.image import Image, open_image
from synpol.images.intensity import Intensity, intensity_of
from synpol.images.writing import check_writable, complete, create_image, inner_chunks
from synpol.polarity import Channels
from synpol.prediction.part import Part
from synpol.prediction.stage import PredictStage
from synpol.prediction.windows import WindowGrid


def predict_blockwise(
    config: Config,
    raw: str,
    output: str,
    checkpoint: Path,
    num_workers: int | None = None,
    fresh: bool = False,
) -> Image:
    """Predict the polarity of a volume of any size; finishes an interrupted job.

    Parameters
    ----------
    config : Config
        Network, windows, blocks, workers.
    raw : path or URL
        The image.
    output : path or URL
        Container that gets ``polarity``: (3, z, y, x) uint8.
    checkpoint : path
    num_workers : int, optional
        By default ``workers.num_predict_workers``.
    fresh : bool
        Do all of it again, whatever was done before.

    Returns
    -------
    Image
        The finished polarity array.

    Raises
    ------
    InputError
        The input cannot be used, or another driver works there.
    RuntimeError
        Blocks failed; what is done is kept.
    """
    return PredictJob.of(config, raw, output, checkpoint, num_workers).run(fresh)


@dataclass(frozen=True)
class PredictJob:
    """A prediction that has been checked and can be run.

    Attributes
    ----------
    config : Config
    source : Image
    output : str
    checkpoint : Path
    intensity : Intensity
    part : Part
    blocks : BlockGrid
    windows : WindowGrid
    workers, gpus : int
        How many workers, and GPUs of each that a cluster gives out.
    weights : str
        SHA-256 of the checkpoint.
    digest : str
        Hash of all that the result depends on.
    work : Path
        Work folder.
    """

    config: Config
    source: Image
    output: str
    checkpoint: Path
    intensity: Intensity
    part: Part
    blocks: BlockGrid
    windows: WindowGrid
    workers: int
    gpus: int
    weights: str
    digest: str
    work: Path

    @classmethod
    def of(
        cls,
        config: Config,
        raw: str,
        output: str,
        checkpoint: Path,
        num_workers: int | None = None,
    ) -> PredictJob:
        """Check everything that can be checked before anything is written.

        Raises
        ------
        InputError
        """
        from synpol.model.device import choose_device, choose_dtype
        from synpol.model.trained import load_trained

        predict, settings = config.predict, config.workers
        source = open_image(raw, channels=0)
        intensity = intensity_of(source, config.data.intensity_range)
        check_float_range(source, intensity)
        part = Part.of(source, predict.roi)
        mask = None
        if predict.mask is not None:
            mask = open_image(predict.mask, channels=0)
            if mask.unit != source.unit:
                raise InputError(
                    f"predict.mask {mask.path} is in {mask.unit}, but {source.path} in "
                    f"{source.unit}; give both in one unit"
                )
            part.check_meets(mask, source)
        weights = load_trained(checkpoint, config).digest
        blocks = BlockGrid.of(part.shape, predict.block_shape)
        remote_gpu = settings.executor != "local" and settings.gpus > 0
        if remote_gpu:  # this machine need not have one
            kind = f"cuda {config.train.precision}"
        else:
            device = choose_device(config.device)
            kind = str(choose_dtype(config.train.precision, device))
        work = work_folder(output, settings.work_dir)
        options = {"overlap", "blending", "flip_axes", "roi", "compile"}
        decided = hash_of(
            {
                "source": identity_of(source),
                "mask": None if mask is None else identity_of(mask),
                "checkpoint": weights,
                "predict": predict.model_dump(mode="json", include=options),
                "window": config.window,
                "block": blocks.block,
                "dtype": kind,
                "intensity": [intensity.scale, intensity.shift],
                "code": PredictStage.version,
            }
        )
        windows = WindowGrid.of(source.shape_vx, config.window, predict.overlap, predict.blending)
        return cls(
            config,
            source,
            str(output),
            checkpoint,
            intensity,
            part,
            blocks,
            windows,
            num_workers or settings.num_predict_workers,
            settings.gpus if remote_gpu else 0,
            weights,
            decided,
            work,
        )

    @property
    def folder(self) -> Path:
        """Of the records."""
        return self.work / f"{self._records}{self.digest[:16]}"

    @property
    def _records(self) -> str:
        """What the names of all records begin with that were made for this output."""
        return f"predict-{hash_of(str(Path(self.output).resolve()))[:8]}-"

    def stage(self, polarity: str) -> PredictStage:
        """The stage that writes an array."""
        cores = self.config.workers.cores_of(self.workers)
        return PredictStage(
            folder=self.folder,
            grid=self.blocks.grid,
            raw=self.source.path,
            polarity=polarity,
            checkpoint=str(self.checkpoint),
            weights=self.weights,
            blocks=self.blocks,
            part=self.part,
            windows=self.windows,
            intensity=self.intensity,
            config=self.config,
            threads=cores,
        )

    def run(self, fresh: bool = False) -> Image:
        """Do what is left of it; see `predict_blockwise`."""
        check_writable(self.output)
        check_writable(self.work)
        what = f"prediction of {self.source.path}"
        with Driver(self.work, what, self.workers, self.config.workers, self.gpus) as driver:
            polarity = self.prepare(fresh)
            driver.run(self.stage(polarity.path))
            complete(polarity)
        return polarity

    def prepare(self, fresh: bool = False) -> Image:
        """Open the array to write: the one that is there, if it is of this job, or a new one."""
        claim = claim_image(
            join(self.output, "polarity"),
            self.digest,
            fresh=fresh,
            advice="remove it or give another predict.output",
        )
        return claim.image_to_write(self._create, self.work.glob(f"{self._records}*"))

    def _create(self, overwrite: bool) -> Image:
        blocks, source, config = self.blocks, self.source, self.config
        wanted = config.predict.chunk_shape
        chunks = [
            c if b % c == 0 else d
            for b, c, d in zip(blocks.block, wanted, inner_chunks(blocks.block), strict=True)
        ]
        begin = zip(source.offset, self.part.begin, source.voxel_size, strict=True)
        return create_image(
            self.output,
            "polarity",
            shape=(Channels.count, *blocks.shape),
            dtype=np.uint8,
            voxel_size=source.voxel_size,
            offset=[o + b * v for o, b, v in begin],
            unit=source.unit,
            chunk_shape=(Channels.count, *chunks),  # a shader sees channels of one chunk alone
            shard_shape=(Channels.count, *blocks.block),
            attributes=begun(self.digest, {"exclusive": config.exclusive}),
            overwrite=overwrite,
        )

    def border_cost(self) -> str:
        """What it costs that neighbouring blocks share windows, and which blocks would halve it."""
        once = self.windows.count_in(BlockGrid(self.part.shape, self.part.shape), self.part.begin)
        extra = self.windows.count_in(self.blocks, self.part.begin) / once - 1
        text = f"predict: {once} windows in {int(np.prod(self.blocks.grid))} blocks"
        if extra <= 0:
            return text
        text += f", {100 * extra:.0f} % more than that since neighbouring blocks share some"
        block = list(self.blocks.block)
        while True:
            choices = [a for a in range(3) if block[a] < self.part.shape[a]]
            if not choices:
                return text
            axis = min(choices, key=lambda a: block[a] / self.windows.window[a])
            block[axis] = min(2 * block[axis], self.part.shape[axis])
            larger = BlockGrid(self.part.shape, index_of(block))
            if self.windows.count_in(larger, self.part.begin) / once - 1 <= extra / 2:
                return f"{text}; blocks of {tuple(block)} would halve that (predict.block_shape)"


def check_float_range(source: Image, intensity: Intensity, samples: int = 64) -> None:
    """Look at some chunks of a float image before anything is written; workers look at all.

    Raises
    ------
    InputError
        Values outside 0..1.
    """
    if not intensity.checked:
        return
    chunks = [-(-s // c) for s, c in zip(source.array.shape, source.array.chunks, strict=True)]
    total = int(np.prod(chunks))
    for flat in np.unique(np.linspace(0, total - 1, min(samples, total)).astype(int)):
        corner = np.unravel_index(flat, chunks)
        where = tuple(
            slice(int(i) * c, (int(i) + 1) * c)
            for i, c in zip(corner, source.array.chunks, strict=True)
        )
        intensity.apply(np.asarray(source.array[where]), source.path)
