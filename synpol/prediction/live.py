"""Predict single blocks of a volume when somebody looks at them, without a run.

A block is read, computed and blended by the stage of a run (`PredictStage`), on the window grid of
the whole volume. So it has the voxels that a new run writes there, whatever the blocks of either
are.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from synpol.blockwise.grid import MOST_BLOCKS, BlockGrid, index_of
from synpol.blockwise.records import Index
from synpol.config import Config
from synpol.images.image import Image
from synpol.images.writing import create_image
from synpol.polarity import Channels
from synpol.prediction.job import PredictJob
from synpol.prediction.network import Probabilities
from synpol.prediction.stage import PredictStage

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class LivePrediction:
    """A prediction whose blocks are computed when they are asked for.

    Attributes
    ----------
    source : Image
        Image that is predicted.
    polarity : Image
        Array with the shape and the place of the prediction, without its voxels; each of its chunks
        is a block.
    stage : PredictStage
        Stage that computes a block, as in a run.
    """

    source: Image
    polarity: Image
    stage: PredictStage

    @classmethod
    def of(cls, config: Config, checkpoint: Path, folder: Path, name: str) -> LivePrediction:
        """Check everything that a run checks, and lay out the blocks of the whole image.

        Parameters
        ----------
        config : Config
            Image, network, windows, mask; `predict.roi` does not limit what can be looked at.
        checkpoint : Path
            Checkpoint of the network.
        folder : Path
            Folder in which the metadata of the array are written.
        name : str
            Name of the array's image in this folder.

        Raises
        ------
        InputError
            The input cannot be used.
        """
        everywhere = config.predict.model_copy(update={"roi": None})
        job = PredictJob.of(
            config.model_copy(update={"predict": everywhere}),
            config.need_image("predict.raw"),
            str(folder),
            checkpoint,
        )
        source = job.source
        blocks = BlockGrid.of(source.shape_vx, block_of(job))
        polarity = create_image(
            folder,
            name,
            shape=(Channels.count, *blocks.shape),
            dtype=np.uint8,
            voxel_size=source.voxel_size,
            offset=source.offset,
            unit=source.unit,
            chunk_shape=(Channels.count, *blocks.block),
            placed=source.placed,
        )
        return cls(source, polarity, replace(job.stage(polarity.path), blocks=blocks))

    @property
    def blocks(self) -> BlockGrid:
        """Blocks of the whole image."""
        return self.stage.blocks

    def open(self, most_bytes: int) -> Callable[[Index], np.ndarray]:
        """Load the network, and return a function from the index of a block to its probabilities.

        Parameters
        ----------
        most_bytes : int
            Largest number of bytes of results of windows that are kept.

        Returns
        -------
        callable
            Returns a (3, z, y, x) uint8 array. One thread at a time may call it.
        """
        stage, opened = self.stage, self.stage.open()
        opened.predictor.network = RememberedWindows(opened.predictor.network, most_bytes)

        def block(index: Index) -> np.ndarray:
            result = stage.compute(index, opened, stage.read(index, opened)).polarity
            if result is None:
                return np.zeros((Channels.count, *stage.blocks.shape_of(index)), np.uint8)
            return result

        return block


def block_of(job: PredictJob) -> Index:
    """Return the shape of the blocks to look at: small, and on the grid of the windows.

    A block is about half a window long along each axis, and whole steps of the windows, so that few
    windows decide about it.
    """
    ratios = [1.0] * 3 if job.resampling is None else [axis.ratio for axis in job.resampling.axes]
    axes = zip(job.windows.window, job.windows.step, ratios, job.source.shape_vx, strict=True)
    return index_of(
        max(1, round(max(1, round(window / 2 / step)) * step * ratio), -(-size // MOST_BLOCKS))
        for window, step, ratio, size in axes
    )


class RememberedWindows:
    """Run a network on each window once, and keep the last results: neighbours share windows.

    A window is known by its voxels. A single window that is new goes to the network twice where
    several are given; see `BlockPredictor`.

    Parameters
    ----------
    network : callable
        Turns windows (n, 1, z, y, x) into probabilities (n, 3, z, y, x).
    most_bytes : int
        Largest number of bytes that are kept.
    """

    def __init__(self, network: Probabilities, most_bytes: int) -> None:
        self.network, self.most_bytes = network, most_bytes
        self._kept: OrderedDict[bytes, torch.Tensor] = OrderedDict()

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        import torch

        keys = [hashlib.blake2b(w.cpu().numpy().tobytes()).digest() for w in windows]
        found = {key: self._kept.pop(key) for key in dict.fromkeys(keys) if key in self._kept}
        new = [keys.index(key) for key in dict.fromkeys(keys) if key not in found]
        if new:
            chosen = new * 2 if len(new) == 1 < len(windows) else new
            made = self.network(windows[chosen])
            found |= {keys[n]: one.clone() for n, one in zip(new, made, strict=False)}
        self._kept |= found
        room = self.most_bytes // found[keys[0]].nbytes
        while len(self._kept) > room:
            self._kept.popitem(last=False)
        return torch.stack([found[key] for key in keys])
