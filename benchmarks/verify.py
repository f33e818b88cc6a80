"""Verifying speed: pipelines/verify.py's stage against plain reading of the same arrays.

    python benchmarks/verify.py [--shape 256 1024 1024] [--repeats 5] [--json FILE]

The prediction is that of benchmarks/decode.py, 3 x 256 x 1024 x 1024 uint8, and the instances are
what it is decoded to. Plain reading reads every block of both arrays with zarr. Verifying reads
them, with checksums as plain reading has them, counts the labels, and leaves a record a block. One
process, files in the cache of the system; medians; the two take turns.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from decode import BLOCK, DILATE, THRES_SMALL, make_prediction
from figures import tell

import synpol
from synpol.blockwise.grid import BlockGrid
from synpol.blockwise.run import run_stage
from synpol.blockwise.stage import blocks_of
from synpol.images.image import open_image
from synpol.verification.arrays import read_all
from synpol.verification.stage import ReadStage, blocks_to_read


def blocks_in(path: Path) -> BlockGrid:
    """The blocks in which an array is verified."""
    image = open_image(path)
    cell = (image.array.shards or image.array.chunks)[-3:]
    return BlockGrid.of(image.shape_vx, blocks_to_read(image.shape_vx, cell))


def plain(paths: list[Path]) -> None:
    """Read every block."""
    for path in paths:
        array, blocks = open_image(path).array, blocks_in(path)
        for index in blocks_of(blocks.grid):
            np.asarray(array[(..., *blocks.slices(index))])


def verified(paths: list[Path], work: Path) -> None:
    """Read every block as pipelines/verify.py does."""
    for path in paths:
        stage = ReadStage(
            blocks=blocks_in(path), source=str(path), count_labels=path.name == "instances"
        )
        stage = run_stage(stage, work)
        damaged, _, _ = read_all(stage)
        shutil.rmtree(stage.folder)
        if damaged:
            raise RuntimeError(f"{damaged} of {path} cannot be read")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", type=int, nargs=3, default=(256, 1024, 1024))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures as a flat object")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_prediction(folder, tuple(given.shape))
        synpol.decode_blockwise(
            folder / "polarity",
            folder,
            block_shape=BLOCK,
            thres_small=THRES_SMALL,
            dilate_sz=DILATE,
            work_dir=folder / "work",
        )
        paths = [folder / "polarity", folder / "instances"]
        contenders: dict[str, Callable[[], None]] = {
            "plain reading": lambda: plain(paths),
            "verifying": lambda: verified(paths, folder / "work"),
        }
        verified(paths, folder / "work")  # imports what the first time needs
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(given.repeats):
            for name, run in contenders.items():
                started = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - started)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    print(f"{given.shape} voxels, polarity and instances, median of {given.repeats}")
    for name, value in median.items():
        print(f"{name:<14} {value:8.2f} s")
    tell({"verify_over_plain_reading": median["plain reading"] / median["verifying"]}, given.json)


if __name__ == "__main__":
    main()
