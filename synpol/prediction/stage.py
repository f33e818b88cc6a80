"""Stage ``predict``: probabilities of every block.

The worker is a plain PyTorch loop that loads the network once. While one block is computed, another
is read or written. A block is one region of whole chunks (a shard), so no two workers ever touch
one file.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from synpol.blockwise.grid import BlockGrid, index_of
from synpol.blockwise.records import Index
from synpol.blockwise.stage import ArrayStage
from synpol.config import Config
from synpol.errors import InputError
from synpol.images.image import Image, open_image
from synpol.images.intensity import Intensity
from synpol.polarity import Channels
from synpol.prediction.part import Part
from synpol.prediction.windows import BlockImage, BlockPredictor, WindowGrid, read_block

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenPrediction:
    """What a process that predicts has open.

    Attributes
    ----------
    raw : Image
        Image that is predicted.
    mask : Image or None
        Image that says where a prediction is wanted.
    polarity : zarr.Array
        Array to write; (3, z, y, x) uint8.
    predictor : BlockPredictor
        The network with its windows.
    """

    raw: Image
    mask: Image | None
    polarity: zarr.Array
    predictor: BlockPredictor


@dataclass(frozen=True)
class PredictStage(ArrayStage[OpenPrediction, BlockImage]):
    """Predict every block.

    Attributes
    ----------
    raw, polarity, checkpoint : str
        Paths of the image, of the array to write, and of the checkpoint.
    voxel_bytes : int
        Bytes of one voxel of the image.
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
    voxel_bytes: int
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
    version = 2
    voxel_cost = 100
    for_workers = True
    prefetch = 2

    @property
    def bytes_read(self) -> int:
        return int(np.prod(self.part.shape)) * self.voxel_bytes

    @property
    def bytes_written(self) -> int:
        return int(np.prod(self.part.shape)) * Channels.count

    def open(self) -> OpenPrediction:
        import torch

        from synpol.model.device import worker_device
        from synpol.model.trained import load_trained

        if self.threads:
            torch.set_num_threads(self.threads)
        trained = load_trained(Path(self.checkpoint), self.config)
        if trained.digest != self.weights:
            raise InputError(
                f"{self.checkpoint} was replaced while it is predicted with, by a training "
                "that goes on; name a checkpoint that stays: predict.checkpoint=FILE"
            )
        device = worker_device(self.config)
        network = network_of(trained.model, self.config, device)
        batch = self.config.predict.batch_size
        predictor = BlockPredictor(network, self.windows, batch, device, _log.warning)
        mask = self.config.predict.mask
        return OpenPrediction(
            raw=open_image(self.raw, channels=0),
            mask=None if mask is None else open_image(mask, channels=0),
            polarity=open_image(self.polarity, channels=Channels.count, mode="r+").array,
            predictor=predictor,
        )

    def target(self, opened: OpenPrediction) -> zarr.Array:
        return opened.polarity

    def read(self, index: Index, opened: OpenPrediction) -> BlockImage:
        begin, end = (
            index_of(v + b for v, b in zip(voxel, self.part.begin, strict=True))
            for voxel in self.blocks.bounds(index)
        )

        def read(where: tuple[slice, slice, slice]) -> np.ndarray:
            return self.intensity.apply(np.asarray(opened.raw.array[where]), self.raw)

        mask = opened.mask
        wanted = None if mask is None else sample_mask(mask, opened.raw, begin, end)
        return read_block(self.windows, read, begin, end, wanted)

    def compute(self, index: Index, opened: OpenPrediction, given: BlockImage) -> np.ndarray | None:
        result = opened.predictor(given)
        return result if result.any() else None


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
