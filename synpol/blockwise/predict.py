"""Stage ``predict``: probabilities of every block.

The worker is a plain PyTorch loop that loads the network once. It writes one region of whole
chunks (a shard) per block, so that no two workers ever touch one file.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from synpol.arrays import (
    COMPLETE,
    HASH,
    SETTINGS,
    Image,
    check_writable,
    create_image,
    join,
    open_image,
)
from synpol.blockwise.decode import hash_of, identity_of, inner_chunks, work_folder
from synpol.blockwise.geometry import BlockGrid
from synpol.blockwise.records import Index, write_record
from synpol.blockwise.stage import Driver, Stage, wait_for_orphans
from synpol.blockwise.windows import blending_weights, predict_block
from synpol.config import Config
from synpol.errors import InputError
from synpol.intensity import Intensity, intensity_of
from synpol.lock import DriverLock

VERSION = 1


@dataclass(frozen=True)
class PredictStage(Stage):
    """Predict every block.

    Attributes
    ----------
    raw, polarity, checkpoint : str
        Paths of the image, of the array to write, and of the checkpoint.
    blocks : BlockGrid
    intensity : Intensity
    config : Config
    threads : int
        Of each worker.
    """

    raw: str
    polarity: str
    checkpoint: str
    blocks: BlockGrid
    intensity: Intensity
    config: Config = field(repr=False)
    threads: int

    name = "predict"

    @property
    def block_voxels(self) -> int:
        return int(np.prod(self.blocks.block))

    @property
    def cost(self) -> int:  # type: ignore[override]
        return self.block_voxels * 100

    def start(self) -> Any:
        import torch

        from synpol.training.checkpoint import load_trained

        if self.threads:
            torch.set_num_threads(self.threads)
        trained = load_trained(Path(self.checkpoint), self.config)
        raw = open_image(self.raw, channels=0).array
        polarity = open_image(self.polarity, channels=3, mode="r+").array
        weights = blending_weights(self.config.window, self.config.predict.blending)
        return raw, polarity, weights, network_of(trained.model, self.config)

    def process(self, index: Index, loaded: Any) -> None:
        raw, polarity, weights, network = loaded
        begin, end = self.blocks.bounds(index)
        predict = self.config.predict

        def read(where: tuple[slice, slice, slice]) -> np.ndarray:
            return self.intensity.apply(np.asarray(raw[where]), self.raw)

        result = predict_block(
            read,
            network,
            self.blocks.shape,
            begin,
            end,
            window=self.config.window,
            overlap=predict.overlap,
            weights=weights,
            batch_size=predict.batch_size,
        )
        polarity[(slice(None), *self.blocks.slices(index))] = result
        write_record(self.folder, index, {})


def network_of(model: Any, config: Config) -> Callable[[np.ndarray], np.ndarray]:
    """The network as a function of numpy windows (n, 1, z, y, x) to probabilities."""
    import torch

    from synpol.model.device import autocast, choose_device, choose_dtype

    device = choose_device(config.device)
    dtype = choose_dtype(config.train.precision, device)
    model = model.to(device, memory_format=torch.channels_last_3d).eval()

    def network(windows: np.ndarray) -> np.ndarray:
        with torch.inference_mode(), autocast(device, dtype):
            given = torch.from_numpy(windows).to(device)
            logits = model(given.contiguous(memory_format=torch.channels_last_3d)).float()
            result = logits.softmax(1) if config.exclusive else logits.sigmoid()
        return result.cpu().numpy()

    return network


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
        Network, windows, blocks.
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
    from synpol.model.device import choose_device, choose_dtype
    from synpol.training.checkpoint import load_trained

    source = open_image(raw, channels=0)
    intensity = intensity_of(source, config.data.intensity_range)
    check_float_range(source, intensity)
    digest = load_trained(checkpoint, config).digest
    workers = num_workers or config.workers.num_predict_workers
    blocks = BlockGrid.of(source.shape_vx, config.predict.block_shape)
    device = choose_device(config.device)
    decided = hash_of(
        {
            "source": identity_of(source),
            "checkpoint": digest,
            "predict": config.predict.model_dump(mode="json", include={"overlap", "blending"}),
            "window": config.window,
            "block": blocks.block,
            "dtype": str(choose_dtype(config.train.precision, device)),
            "intensity": [intensity.scale, intensity.shift],
            "code": VERSION,
        }
    )
    work = work_folder(output, config.workers.work_dir)
    check_writable(output)
    check_writable(work)
    with DriverLock(work, f"prediction of {source.path}") as lock:
        wait_for_orphans(work)
        folder = work / f"predict-{hash_of([decided, str(Path(output).resolve())])[:16]}"
        polarity = _prepare(output, source, blocks, config, decided, folder, fresh)
        stage = PredictStage(
            folder,
            blocks.grid,
            source.path,
            polarity.path,
            str(checkpoint),
            blocks,
            intensity,
            config,
            max(1, (os.cpu_count() or 1) // workers) if device.type == "cpu" else 0,
        )
        Driver(work, lock, workers).run(stage)
        polarity.array.update_attributes({COMPLETE: True})
    return polarity


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


def _prepare(
    output: str,
    source: Image,
    blocks: BlockGrid,
    config: Config,
    digest: str,
    folder: Path,
    fresh: bool,
) -> Image:
    path = join(output, "polarity", "s0")
    try:
        found = open_image(path, channels=3, mode="r+")
    except InputError:
        found = None
    if found is not None:
        if found.array.attrs.get(HASH) == digest and not fresh:
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
    shutil.rmtree(folder, ignore_errors=True)
    return create_image(
        output,
        "polarity",
        shape=(3, *blocks.shape),
        dtype=np.uint8,
        voxel_size=source.voxel_size,
        offset=source.offset,
        unit=source.unit,
        chunk_shape=(1, *chunks),
        shard_shape=(3, *blocks.block),
        attributes={HASH: digest, COMPLETE: False, SETTINGS: {"exclusive": config.exclusive}},
        overwrite=found is not None,
    )
