"""Stage ``predict``: compute the probabilities of every block.

The worker is a plain PyTorch loop that loads the network once. While one block is computed, another
is read or written. A block is one region of whole chunks (a shard), so no two workers ever touch
one file.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from synpol.blockwise.grid import index_of
from synpol.blockwise.records import Index, write_record
from synpol.blockwise.stage import FillStage
from synpol.config import Source, Workers
from synpol.images.image import Image, open_image
from synpol.images.intensity import Intensity
from synpol.images.reading import read_voxels
from synpol.images.resampling import Resampling
from synpol.images.world import finest
from synpol.polarity import Channels
from synpol.prediction.missing import BlockRecord, places_of
from synpol.prediction.network import Network
from synpol.prediction.roi import VoxelRoi
from synpol.prediction.windows import BlockImage, BlockPredictor, WindowGrid, read_block

if TYPE_CHECKING:
    import zarr

_log = logging.getLogger(__name__)
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class OpenPrediction:
    """What a process opens to predict blocks.

    Attributes
    ----------
    raw : Image
        Image that is predicted.
    mask : Image or None
        Image that says where a prediction is wanted.
    polarity : zarr.Array
        Array to write; (3, z, y, x) uint8.
    predictor : BlockPredictor
        Network with its windows.
    """

    raw: Image
    mask: Image | None
    polarity: zarr.Array
    predictor: BlockPredictor


@dataclass(frozen=True)
class BlockInput:
    """What is read for a block.

    Attributes
    ----------
    begin, end : (int, int, int)
        First voxel of the block in the image, and one past its last.
    seen : BlockImage
        What the network sees, in its own voxels.
    hidden : (z, y, x) bool array or None
        Whether each voxel of the block is 0 in the result whatever the network says.
    missing : dict of str to array
        Voxels of the block that are missing; see `BlockRecord`.
    """

    begin: Index
    end: Index
    seen: BlockImage
    hidden: np.ndarray | None
    missing: dict[str, np.ndarray]


@dataclass(frozen=True)
class BlockResult:
    """What is written for a block.

    Attributes
    ----------
    polarity : (3, z, y, x) uint8 array or None
        Probabilities; None where all are 0.
    missing : dict of str to array
        Voxels of the block that are missing; see `BlockRecord`.
    """

    polarity: np.ndarray | None
    missing: dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class PredictStage(FillStage[OpenPrediction, BlockInput, BlockResult]):
    """Predict every block.

    Attributes
    ----------
    raw : str or ImageSource
        The image.
    polarity : str
        Path or URL of the array to write.
    mask : str or ImageSource or None
        Array of any voxel size: only where it is not 0 there is a prediction.
    voxel_bytes : int
        Number of bytes of a voxel of the image.
    blocks : BlockGrid
        Blocks of the region that is predicted.
    roi : VoxelRoi
        Region of the image that is predicted.
    resampling : Resampling or None
        From the image's voxels to those of the network, where they differ.
    windows : WindowGrid
        Windows of the whole image, in voxels of the network.
    intensity : Intensity
        Rule from the image's values to what the network sees.
    network : Network
        Network that predicts.
    batch_size : int
        Number of windows that the network gets at once.
    device : str
        Device of the config.
    workers : Workers
        Where workers run; decides which device one of them takes.
    threads : int
        Number of torch's threads in each worker; with 0 torch decides.
    """

    raw: Source
    polarity: str
    mask: Source | None
    voxel_bytes: int
    roi: VoxelRoi
    resampling: Resampling | None
    windows: WindowGrid
    intensity: Intensity
    network: Network
    batch_size: int
    device: str
    workers: Workers = field(repr=False)
    threads: int

    name = "predict"
    version = 2
    voxel_cost = 100
    for_workers = True
    prefetch = 2

    @property
    def bytes_read(self) -> int:
        return int(np.prod(self.roi.shape)) * self.voxel_bytes

    @property
    def bytes_written(self) -> int:
        return int(np.prod(self.roi.shape)) * Channels.count

    def open(self) -> OpenPrediction:
        from synpol.model.device import worker_device

        raw = open_image(self.raw, channels=0)
        polarity = open_image(self.polarity, channels=Channels.count, mode="r+").array
        mask = None
        if self.mask is not None:
            mask = open_image(self.mask, channels=0).fitted_to(raw)
            unit = finest([raw.unit, mask.unit])
            raw, mask = raw.in_unit(unit), mask.in_unit(unit)
        device = worker_device(self.device, self.workers)
        network = self.network.on(device)
        predictor = BlockPredictor(network, self.windows, self.batch_size, device, _log.warning)
        return OpenPrediction(raw, mask, polarity, predictor)

    @property
    def filled(self) -> str:
        return self.polarity

    def read(self, index: Index, opened: OpenPrediction) -> BlockInput:
        begin, end = (
            index_of(voxel + offset for voxel, offset in zip(corner, self.roi.offset, strict=True))
            for corner in self.blocks.bounds(index)
        )
        mask = opened.mask
        wanted = None if mask is None else sample_mask(mask, opened.raw, begin, end)
        missing: np.ndarray | None = None

        def read(where: Box) -> np.ndarray:
            nonlocal missing
            stored = read_voxels(opened.raw.array, where, opened.raw.path)
            values, lost = self.intensity.apply(stored, opened.raw.path)
            if lost is not None:
                corner = [s.start for s in where]
                missing = lost[_box(np.subtract(begin, corner), np.subtract(end, corner))]
            return values

        if self.resampling is None:
            seen = read_block(self.windows, read, begin, end, wanted)
            hidden = missing
        else:
            seen = _read_resampled(self.windows, self.resampling, read, begin, end, wanted)
            hidden = missing if wanted is None else ~wanted | (missing is not None and missing)
        lost = missing if missing is None or wanted is None else missing & wanted
        return BlockInput(begin, end, seen, hidden, places_of(lost, begin))

    def compute(self, index: Index, opened: OpenPrediction, given: BlockInput) -> BlockResult:
        from synpol.model.device import number_of_threads

        with number_of_threads(self.threads):
            result = opened.predictor(given.seen)
        if self.resampling is not None:
            back = self.resampling.back.apply(result, given.begin, given.end)
            result = np.floor(back + 0.5).astype(np.uint8)
        if given.hidden is not None:
            result = result * ~given.hidden
        return BlockResult(result if result.any() else None, given.missing)

    def write(self, index: Index, opened: OpenPrediction, result: BlockResult) -> None:
        """Write a block of the array, then its record."""
        sizes = self.fill(index, opened.polarity, result.polarity)
        write_record(self.folder, index, BlockRecord(result.missing, sizes))


def _read_resampled(
    windows: WindowGrid,
    resampling: Resampling,
    read: Callable[[Box], np.ndarray],
    begin: Index,
    end: Index,
    wanted: np.ndarray | None,
) -> BlockImage:
    """Read what the network sees of a block, in its own voxels; `read` reads the image."""
    back = resampling.back
    reached = None if wanted is None else back.reached(wanted, begin)

    def read_as_seen(where: Box) -> np.ndarray:
        corners = [s.start for s in where], [s.stop for s in where]
        return resampling.apply(read(_box(*resampling.needed(*corners))), *corners)

    return read_block(windows, read_as_seen, *back.needed(begin, end), reached)


def _box(begin: Sequence[int] | np.ndarray, end: Sequence[int] | np.ndarray) -> Box:
    z, y, x = (slice(int(b), int(e)) for b, e in zip(begin, end, strict=True))
    return z, y, x


def sample_mask(mask: Image, raw: Image, begin: Sequence[int], end: Sequence[int]) -> np.ndarray:
    """Tell which voxels of an image have their centre where a mask is not 0.

    Parameters
    ----------
    mask : Image
        Mask of any voxel size, in the unit of the image.
    raw : Image
        The image.
    begin, end : 3 ints
        First voxel of a box in the image, and one past its last.

    Returns
    -------
    (z, y, x) bool array of the shape ``end - begin``
    """
    voxels, known = [], []
    for axis in range(3):
        twice = 2 * np.arange(begin[axis], end[axis]) + 1  # half voxels, so that all is whole
        world = 2 * (raw.offset[axis] - mask.offset[axis]) + twice * raw.voxel_size[axis]
        voxel = world // (2 * mask.voxel_size[axis])
        inside = (voxel >= 0) & (voxel < mask.shape_vx[axis])
        voxels.append(voxel[inside])
        known.append(np.flatnonzero(inside))
    wanted = np.zeros([e - b for b, e in zip(begin, end, strict=True)], bool)
    if all(len(v) for v in voxels):
        region = tuple(slice(int(v[0]), int(v[-1]) + 1) for v in voxels)
        marked = np.asarray(mask.array[region]) != 0
        wanted[np.ix_(*known)] = marked[np.ix_(*(v - v[0] for v in voxels))]
    return wanted
