"""Stage ``predict``: probabilities of every block.

The worker is a plain PyTorch loop that loads the network once. While one block is computed, another
is read or written. A block is one region of whole chunks (a shard), so no two workers ever touch
one file.
"""

from __future__ import annotations

import itertools
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from synpol.arrays import COMPLETE, HASH, SETTINGS, Image, join, open_image
from synpol.blockwise.driver import Driver
from synpol.blockwise.geometry import BlockGrid, index_of
from synpol.blockwise.output import Part, hash_of, identity_of, inner_chunks, work_folder
from synpol.blockwise.records import Index, write_record
from synpol.blockwise.stage import VoxelStage
from synpol.blockwise.windows import BlockImage, BlockPredictor, WindowGrid, read_block
from synpol.config import Config
from synpol.errors import InputError
from synpol.intensity import Intensity, intensity_of
from synpol.writing import check_writable, create_image

if TYPE_CHECKING:
    import torch

VERSION = 2
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictStage(VoxelStage):
    """Predict every block.

    Attributes
    ----------
    raw, polarity, checkpoint : str
        Paths of the image, of the array to write, and of the checkpoint.
    weights : str
        SHA-256 of the checkpoint.
    blocks : BlockGrid
        Of the part that is predicted.
    part : Part
    windows : WindowGrid
        Of the whole image.
    intensity : Intensity
    config : Config
    threads : int
        Of each worker; 0: what torch takes.
    """

    raw: str
    polarity: str
    checkpoint: str
    weights: str
    blocks: BlockGrid
    part: Part
    windows: WindowGrid
    intensity: Intensity
    config: Config = field(repr=False)
    threads: int

    name = "predict"
    voxel_cost = 100
    for_workers = True
    lanes = 2

    def start(self) -> Any:
        import torch

        from synpol.model.device import worker_device
        from synpol.training.checkpoint import load_trained

        if self.threads:
            torch.set_num_threads(self.threads)
        trained = load_trained(Path(self.checkpoint), self.config)
        if trained.digest != self.weights:
            raise InputError(
                f"{self.checkpoint} was replaced while it is predicted with, by a training "
                "that goes on; name a checkpoint that stays: predict.checkpoint=FILE"
            )
        raw = open_image(self.raw, channels=0)
        polarity = open_image(self.polarity, channels=3, mode="r+").array
        mask = self.config.predict.mask
        device = worker_device(self.config)
        network = network_of(trained.model, self.config, device)
        batch = self.config.predict.batch_size
        predictor = BlockPredictor(network, self.windows, batch, device, _log.warning)
        return raw, polarity, None if mask is None else open_image(mask, channels=0), predictor

    def read(self, index: Index, loaded: Any) -> BlockImage:
        raw, _, mask, _ = loaded
        begin, end = (
            index_of(v + b for v, b in zip(voxel, self.part.begin, strict=True))
            for voxel in self.blocks.bounds(index)
        )

        def read(where: tuple[slice, slice, slice]) -> np.ndarray:
            return self.intensity.apply(np.asarray(raw.array[where]), self.raw)

        wanted = None if mask is None else sample_mask(mask, raw, begin, end)
        return read_block(self.windows, read, begin, end, wanted)

    def compute(self, index: Index, loaded: Any, given: BlockImage) -> np.ndarray:
        return loaded[3](given)

    def write(self, index: Index, loaded: Any, result: np.ndarray) -> None:
        if result.any():
            loaded[1][(slice(None), *self.blocks.slices(index))] = result
        write_record(self.folder, index, {})


def sample_mask(mask: Image, raw: Image, begin: Sequence[int], end: Sequence[int]) -> np.ndarray:
    """Which voxels of an image have their centre where a mask, of any voxel size, is not 0.

    Returns
    -------
    (z, y, x) bool array of the shape ``end - begin``
    """
    places, known = [], []
    for axis in range(3):
        twice = 2 * np.arange(begin[axis], end[axis]) + 1  # half voxels, so that all is whole
        world = 2 * (raw.offset[axis] - mask.offset[axis]) + twice * raw.voxel_size[axis]
        place = world // (2 * mask.voxel_size[axis])
        inside = (place >= 0) & (place < mask.shape_vx[axis])
        places.append(place[inside])
        known.append(np.flatnonzero(inside))
    wanted = np.zeros([e - b for b, e in zip(begin, end, strict=True)], bool)
    if all(len(p) for p in places):
        region = tuple(slice(int(p[0]), int(p[-1]) + 1) for p in places)
        there = np.asarray(mask.array[region]) != 0
        wanted[np.ix_(*known)] = there[np.ix_(*(p - p[0] for p in places))]
    return wanted


def network_of(
    model: Any, config: Config, device: torch.device
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The network as a function of windows (n, 1, z, y, x) to probabilities, on a device."""
    import torch

    from synpol.model.device import autocast, choose_dtype

    dtype = choose_dtype(config.train.precision, device)
    model = model.to(device, memory_format=torch.channels_last_3d).eval()
    if config.predict.compile:
        model = torch.compile(model)
    flips = [[2 + "zyx".index(a) for a in axes] for axes in flips_of(config)]

    def probabilities(windows: torch.Tensor) -> torch.Tensor:
        with autocast(device, dtype):
            logits = model(windows.contiguous(memory_format=torch.channels_last_3d)).float()
        return logits.softmax(1) if config.exclusive else logits.sigmoid()

    def network(windows: torch.Tensor) -> torch.Tensor:
        total = probabilities(windows)
        for axes in flips:
            total = total + probabilities(windows.flip(axes)).flip(axes)
        return total / (1 + len(flips))

    return network


def flips_of(config: Config) -> list[tuple[str, ...]]:
    """Axes of the flipped copies that are predicted beside the image itself, each set once."""
    if config.predict.flip_axes == "all":
        return [axes for n in (1, 2, 3) for axes in itertools.combinations("zyx", n)]
    given = [tuple(a for a in "zyx" if a in axes) for axes in config.predict.flip_axes]
    return [axes for axes in dict.fromkeys(given) if axes]


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
        from synpol.training.checkpoint import load_trained

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
                "code": VERSION,
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
            self.folder,
            self.blocks.grid,
            self.source.path,
            polarity,
            str(self.checkpoint),
            self.weights,
            self.blocks,
            self.part,
            self.windows,
            self.intensity,
            self.config,
            cores,
        )

    def run(self, fresh: bool = False) -> Image:
        """Do what is left of it; see `predict_blockwise`."""
        check_writable(self.output)
        check_writable(self.work)
        what = f"prediction of {self.source.path}"
        with Driver(self.work, what, self.workers, self.config.workers, self.gpus) as driver:
            polarity = self.prepare(fresh)
            driver.run(self.stage(polarity.path))
            polarity.array.update_attributes({COMPLETE: True})
        return polarity

    def prepare(self, fresh: bool = False) -> Image:
        """The array to write: the one that is there, if it is of this job, or a new one."""
        path = join(self.output, "polarity", "s0")
        blocks, source, config = self.blocks, self.source, self.config
        try:
            found = open_image(path, channels=3, mode="r+")
        except InputError:
            found = None
        if found is not None:
            if found.array.attrs.get(HASH) == self.digest and not fresh:
                return found
            if HASH not in found.array.attrs:
                raise InputError(
                    f"{path} exists and was not written by synpol; remove it or give another "
                    "predict.output"
                )
        wanted = config.predict.chunk_shape
        chunks = [
            c if b % c == 0 else d
            for b, c, d in zip(blocks.block, wanted, inner_chunks(blocks.block), strict=True)
        ]
        # what is done was done to an array that is not there any more
        for old in self.work.glob(f"{self._records}*"):
            shutil.rmtree(old, ignore_errors=True)
        begin = zip(source.offset, self.part.begin, source.voxel_size, strict=True)
        exclusive = {"exclusive": config.exclusive}
        return create_image(
            self.output,
            "polarity",
            shape=(3, *blocks.shape),
            dtype=np.uint8,
            voxel_size=source.voxel_size,
            offset=[o + b * v for o, b, v in begin],
            unit=source.unit,
            chunk_shape=(1, *chunks),
            shard_shape=(3, *blocks.block),
            attributes={HASH: self.digest, COMPLETE: False, SETTINGS: exclusive},
            overwrite=found is not None,
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
