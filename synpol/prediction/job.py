"""Predict the polarity of a volume of any size: check the input, make the array, run the stage."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from synpol.blockwise.driver import Driver
from synpol.blockwise.grid import BlockGrid, index_of
from synpol.blockwise.records import work_folder
from synpol.blockwise.run import all_records_of, fill_image, records_of
from synpol.blockwise.schedulers import scheduler_of
from synpol.blockwise.sources import SourceStamps
from synpol.config import Config, Predict, Source, Workers
from synpol.files import join
from synpol.images.claim import Claim, answer_of, begun, claim_image
from synpol.images.identity import hash_of, identity_of
from synpol.images.image import Image, check_readable, open_image
from synpol.images.intensity import Intensity, intensity_of
from synpol.images.metadata import HASH
from synpol.images.nodes import opened_array
from synpol.images.resampling import Resampling
from synpol.images.writing import check_writable, create_image, inner_chunks
from synpol.polarity import Channels
from synpol.prediction.contract import check_float_range, check_like, declared_range
from synpol.prediction.engine import as_begun, engines_of
from synpol.prediction.missing import tell_missing
from synpol.prediction.network import Engine, Network
from synpol.prediction.roi import VoxelRoi, mask_identity, opened_mask
from synpol.prediction.stage import PredictStage
from synpol.prediction.windows import Blending, WindowGrid

_log = logging.getLogger(__name__)


def predict_blockwise(
    config: Config,
    raw: Source,
    output: str,
    checkpoint: Path,
    num_workers: int | None = None,
    fresh: bool = False,
) -> Image:
    """Predict the polarity of a volume of any size.

    Called again after any interruption it finishes the job.

    Parameters
    ----------
    config : Config
        Network, windows, blocks, workers.
    raw : str or ImageSource
        The image.
    output : path or URL
        Container in which ``polarity/s0`` is written: (3, z, y, x) uint8.
    checkpoint : path
        Checkpoint of the network.
    num_workers : int, optional
        Largest number of workers; by default ``workers.num_predict_workers``.
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
    return PredictJob.of(config, raw, output, checkpoint, num_workers, fresh).run(fresh)


@dataclass(frozen=True, kw_only=True)
class PredictJob:
    """A prediction that has been checked and can be run.

    Attributes
    ----------
    source : Image
        Image that is predicted.
    mask : Image or None
        Mask that says where a prediction is wanted.
    output : str
        Path or URL of the container to write in.
    network : Network
        Network that predicts.
    predict : Predict
        Section of the config: windows, blocks, chunks, mask.
    intensity : Intensity
        Rule from the image's values to what the network sees.
    roi : VoxelRoi
        Region of the image that is predicted.
    blocks : BlockGrid
        Blocks of this region.
    resampling : Resampling or None
        From the image's voxels to those of the network, where they differ.
    windows : WindowGrid
        Windows of the whole image, in voxels of the network.
    device : str
        Device of the config.
    settings : Workers
        Where workers run and with what.
    num_workers : int
        Largest number of workers.
    gpus : int
        Number of GPUs that each worker asks a cluster for.
    digest : str
        Hash of everything on which the result depends.
    work : Path
        Work folder.
    """

    source: Image
    mask: Image | None
    output: str
    network: Network
    predict: Predict
    intensity: Intensity
    roi: VoxelRoi
    blocks: BlockGrid
    resampling: Resampling | None
    windows: WindowGrid
    device: str
    settings: Workers
    num_workers: int
    gpus: int
    digest: str
    work: Path

    @classmethod
    def of(
        cls,
        config: Config,
        raw: Source,
        output: str,
        checkpoint: Path,
        num_workers: int | None = None,
        fresh: bool = False,
    ) -> PredictJob:
        """Check everything that can be checked before anything is written; see `predict_blockwise`.

        A config that says nothing of windows goes on with those of the recipe where an earlier
        prediction of this output has them, unless it is to be made afresh; one that names no engine
        with the engine of an earlier prediction.

        Raises
        ------
        InputError
            The input cannot be used.
        """
        settings, predict = config.workers, config.predict
        predict.check_chunks()
        scheduler_of(settings)  # refuses a name that nobody knows
        source = open_image(raw, channels=0)
        check_readable(source)
        intensity = intensity_of(source, declared_range(config))
        check_float_range(source, intensity)
        roi = VoxelRoi.of(source, predict.roi)
        mask = opened_mask(predict, source, roi)
        network = Network(
            checkpoint=str(checkpoint),
            model=config.model,
            exclusive=config.exclusive,
            intensity_range=config.data.intensity_range,
            precision=config.train.precision,
            flip_axes=predict.flip_axes,
            compile=predict.compile,
            int8=predict.int8,
        )
        trained = network.load()
        network = replace(network, digest=trained.digest)
        resampling = check_like(config, source, trained.learned_from, network.checkpoint)
        blocks = BlockGrid.of(roi.shape, predict.block_shape)
        remote_gpu = settings.gpus > 0  # refused where jobs run on this machine
        options = {"overlap", "blending", "flip_axes", "roi", "compile"}
        there = opened_array(join(str(output), "polarity", "s0"))
        stored = None if there is None else there.attrs.get(HASH)

        def digest_of(config: Config, engine: Engine) -> str:
            about = {
                "source": identity_of(source),
                "mask": None if mask is None else mask_identity(mask),
                "checkpoint": network.digest,
                "predict": config.predict.model_dump(mode="json", include=options),
                "window": config.window,
                "block": blocks.block,
                "dtype": _dtype_name(network, config.device, remote_gpu),
                "intensity": [intensity.scale, intensity.shift],
                "code": PredictStage.version,
            }
            if resampling is not None:
                about["resampled"] = [a.ratio for a in resampling.axes]
            if engine != "torch":
                about["engine"] = engine
            if config.predict.int8:
                about["int8"] = True
            return _digest(stored, about, trained.file_digest)

        engines = engines_of(config)
        layouts = [config.laid_out()]
        if not predict.names_windows:
            layouts.append(config.laid_out(recipe=True))
        config, engine = as_begun(
            join(str(output), "polarity"),
            [(layout, engine) for layout in layouts for engine in engines],
            lambda *choice: answer_of(there, digest_of(*choice), fresh),
        )
        network = replace(network, engine=engine)
        predict = config.predict
        return cls(
            source=source,
            mask=mask,
            output=str(output),
            network=network,
            predict=predict,
            intensity=intensity,
            roi=roi,
            blocks=blocks,
            resampling=resampling,
            windows=WindowGrid.of(
                source.shape_vx if resampling is None else resampling.shape,
                config.window,
                cast(float, predict.overlap),
                cast(Blending, predict.blending),
            ),
            device=config.device,
            settings=settings,
            num_workers=num_workers or settings.num_predict_workers,
            gpus=settings.gpus if remote_gpu else 0,
            digest=digest_of(config, engine),
            work=work_folder(output, settings.work_dir),
        )

    @property
    def sources(self) -> list[Image]:
        """Images that are read."""
        return [self.source] if self.mask is None else [self.source, self.mask]

    @property
    def folder(self) -> Path:
        """Folder of the records."""
        return records_of(self.work, PredictStage.name, self.output, self.digest)

    def stage(self, polarity: str) -> PredictStage:
        """Return the stage that writes an array, given its path or URL."""
        return PredictStage(
            folder=self.folder,
            raw=self.source.source,
            polarity=polarity,
            mask=None if self.mask is None else self.mask.source,
            voxel_bytes=self.source.array.dtype.itemsize,
            blocks=self.blocks,
            roi=self.roi,
            resampling=self.resampling,
            windows=self.windows,
            intensity=self.intensity,
            network=self.network,
            batch_size=self.network.at_once(self.predict.batch_size),
            device=self.device,
            workers=self.settings,
            threads=self.settings.cores_of(self.num_workers),
        )

    def run(self, fresh: bool = False) -> Image:
        """Do the blocks that are not done yet; see `predict_blockwise`."""
        check_writable(self.output)
        check_writable(self.work)
        what = f"prediction of {self.source.path}"
        with Driver(
            self.work, what, self.num_workers, self.settings, self.gpus, output=self.output
        ) as driver:
            stamps = SourceStamps.of(self.folder, self.sources)
            if not fresh and (rewritten := stamps.rewritten()):
                _log.warning("%s was written anew; predicting again", " and ".join(rewritten))
                fresh = True

            def create(overwrite: bool) -> Image:
                image = self.create(overwrite)
                stamps.keep()
                return image

            made = fill_image(
                driver,
                self.claim(fresh),
                create,
                lambda polarity: self.stage(polarity.path),
                forget=all_records_of(self.work, PredictStage.name, self.output),
            )
            stamps.keep()
        tell_missing(self.stage(made.path), self.source)
        return made

    def claim(self, fresh: bool = False) -> Claim:
        """Look at what lies where the array is to be written.

        Raises
        ------
        InputError
            Something that synpol did not write is there.
        """
        return claim_image(
            join(self.output, "polarity"),
            self.digest,
            fresh=fresh,
            advice="remove it or give another predict.output",
        )

    def refuse_other_region(self) -> None:
        """Refuse to replace the prediction of another region; see `VoxelRoi.check_same`."""
        found = self.claim().found
        if found is not None:
            self.roi.check_same(found, self.source)

    def create(self, overwrite: bool) -> Image:
        """Create the array to write, all zeros."""
        blocks, source = self.blocks, self.source
        wanted = self.predict.chunk_shape
        chunks = [
            c if b % c == 0 else d
            for b, c, d in zip(blocks.block, wanted, inner_chunks(blocks.block), strict=True)
        ]
        begin = zip(source.offset, self.roi.offset, source.voxel_size, strict=True)
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
            attributes=begun(self.digest, {"exclusive": self.network.exclusive}),
            placed=source.placed,
            overwrite=overwrite,
        )

    def windows_in(self, blocks: BlockGrid) -> int:
        """Count the windows of all blocks; those at borders of blocks count more than once."""
        needed = None if self.resampling is None else self.resampling.back.needed
        return self.windows.count_in(blocks, self.roi.offset, needed)

    def border_cost(self) -> str:
        """Say what it costs that neighbouring blocks share windows, and which blocks halve that."""
        once = self.windows_in(BlockGrid(self.roi.shape, self.roi.shape))
        extra = self.windows_in(self.blocks) / once - 1
        text = f"predict: {once} windows in {int(np.prod(self.blocks.grid))} blocks"
        if extra <= 0:
            return text
        text += f", {100 * extra:.0f} % more than that since neighbouring blocks share some"
        block = list(self.blocks.block)
        while True:
            choices = [a for a in range(3) if block[a] < self.roi.shape[a]]
            if not choices:
                return text
            axis = min(choices, key=lambda a: block[a] / self.windows.window[a])
            block[axis] = min(2 * block[axis], self.roi.shape[axis])
            larger = BlockGrid(self.roi.shape, index_of(block))
            if self.windows_in(larger) / once - 1 <= extra / 2:
                return f"{text}; blocks of {tuple(block)} would halve that (predict.block_shape)"


def _digest(stored: Any, about: dict[str, Any], file_digest: str) -> str:
    """Return the hash of everything on which a prediction depends.

    Older predictions were told by the file of the checkpoint. One of those that lies in the output
    keeps its hash, so that it is not made again.
    """
    older = hash_of(about | {"checkpoint": file_digest})
    return older if older == stored else hash_of(about)


def _dtype_name(network: Network, device: str, remote_gpu: bool) -> str:
    """Name the type that convolutions compute in, on a machine that may lack the workers' GPUs.

    Raises
    ------
    InputError
        There is no such device, or it does not have this type.
    """
    from synpol.model.device import choose_device, choose_dtype

    if remote_gpu:
        return f"cuda {network.precision}"
    return str(choose_dtype(network.precision, choose_device(device)))
