"""Decoding speed: synpol, disk to disk, against the same decode written plainly in memory.

    python benchmarks/decode.py [--shape 256 1024 1024] [--repeats 5] [--json FILE]

The prediction is 3 x 256 x 1024 x 1024 uint8 with 0.5 to 1 % foreground, blocks are 128 x 256 x
256. Times are medians; the contenders take turns within one run. (a) and (b) get the array in
memory and keep their result there, synpol reads and writes Zarr and starts its workers.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import cc3d
import numpy as np
import scipy.ndimage as nd
from skimage.measure import label
from skimage.morphology import dilation

from synpol.arrays import create_image, open_image

BLOCK = (128, 256, 256)
THRES_SMALL, DILATE = 128, 5


def make_prediction(folder: Path, shape: tuple[int, int, int]) -> float:
    """Synapse-like boxes over noise that stays below the threshold; returns the foreground."""
    rng = np.random.default_rng(0)
    size = (8, 20, 24)
    count = int(0.008 * np.prod(shape) / np.prod(size))
    volume = np.zeros((3, *shape), np.uint8)
    for _ in range(count):
        z, y, x = (int(rng.integers(0, s - d)) for s, d in zip(shape, size, strict=True))
        value = rng.integers(100, 256)
        volume[0, z : z + 8, y : y + 20, x : x + 12] = value
        volume[1, z : z + 8, y : y + 20, x + 12 : x + 24] = value
        volume[2, z : z + 8, y : y + 20, x : x + 24] = value
    for z in range(shape[0]):
        np.maximum(volume[:, z], rng.integers(0, 90, shape[1:], dtype=np.uint8), out=volume[:, z])
    image = create_image(
        folder,
        "polarity",
        shape=volume.shape,
        dtype=np.uint8,
        voxel_size=(30, 8, 8),
        offset=(0, 0, 0),
        unit="nm",
        chunk_shape=(1, 64, 128, 128),
        shard_shape=(3, *BLOCK),
    )
    image.array[:] = volume
    return float((volume[2] > 127).mean())


def plain(volume: np.ndarray) -> np.ndarray:
    """(a) scikit-image and scipy on the whole array."""
    pre, post, union = volume > 127
    synapse = label(dilation(union, np.ones((1, DILATE, DILATE), np.uint8)), connectivity=1)
    result = np.zeros(union.shape, np.uint64)
    for odd, side in ((1, pre & union), (0, post & union)):
        parts, _ = nd.label(side)
        kept = (np.bincount(parts.ravel()) >= THRES_SMALL) & (np.arange(parts.max() + 1) > 0)
        where = kept[parts]
        result[where] = 2 * synapse[where] - odd
    return result


def fast(volume: np.ndarray) -> np.ndarray:
    """(b) cc3d and scipy on the whole array."""
    pre, post, union = volume > 127
    dilated = nd.maximum_filter(union.view(np.uint8), (1, DILATE, DILATE))
    synapse = cc3d.connected_components(dilated, connectivity=6)
    result = np.zeros(union.shape, np.uint64)
    for odd, side in ((1, pre & union), (0, post & union)):
        parts = cc3d.connected_components(side, connectivity=6)
        kept = np.bincount(parts.ravel()) >= THRES_SMALL
        kept[0] = False
        where = kept[parts]
        result[where] = 2 * synapse[where].astype(np.uint64) - np.uint64(odd)
    return result


def synpol_run(folder: Path, workers: int) -> Callable[[], None]:
    """A decode in a process of its own, workers started by daisy."""
    code = (
        "import synpol.blockwise.stage as s; s.DRIVER_VOXELS = 0; import synpol; "
        f"synpol.decode_blockwise('{folder}/polarity', '{folder}/out{workers}', "
        f"block_shape={BLOCK}, num_workers={workers}, thres_small={THRES_SMALL}, "
        f"dilate_sz={DILATE}, synapses='{folder}/out{workers}/synapses.parquet')"
    )

    def run() -> None:
        for path in (f"out{workers}", f"out{workers}.work"):
            shutil.rmtree(folder / path, ignore_errors=True)
        subprocess.run([sys.executable, "-c", code], check=True, stderr=subprocess.DEVNULL)

    return run


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
        foreground = make_prediction(folder, tuple(given.shape))
        volume = np.asarray(open_image(folder / "polarity").array[:])
        contenders: dict[str, Callable[[], object]] = {
            "synpol, 1 worker": synpol_run(folder, 1),
            "synpol, 2 workers": synpol_run(folder, 2),
            "(a) scikit-image + scipy": lambda: plain(volume),
            "(b) cc3d + scipy": lambda: fast(volume),
        }
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(given.repeats):
            for name, run in contenders.items():
                started = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - started)
        expected = plain(volume)
        for workers in (1, 2):
            found = open_image(folder / f"out{workers}" / "instances").array[:]
            if not np.array_equal(found, expected):
                raise RuntimeError("synpol and the plain decode disagree")
    median = {name: statistics.median(times) for name, times in seconds.items()}
    voxels = float(np.prod(given.shape))
    packages = ", ".join(
        f"{p} {version(p)}"
        for p in ("numpy", "scipy", "scikit-image", "connected-components-3d", "zarr", "daisy")
    )
    print(f"{platform.machine()}, Python {platform.python_version()}, {packages}")
    print(f"{given.shape} voxels, {100 * foreground:.2f} % foreground, median of {given.repeats}")
    print(f"{'':<26} {'seconds':>8} {'Mvoxel/s':>9}")
    for name, value in median.items():
        print(f"{name:<26} {value:8.2f} {voxels / value / 1e6:9.1f}")
    one, two, a, b = median.values()
    figures = {
        "synpol_over_skimage": a / one,
        "synpol_over_cc3d": b / one,
        "two_workers_over_one": one / two,
        "seconds_one_worker": one,
        "seconds_two_workers": two,
        "foreground_fraction": foreground,
    }
    for name, figure in figures.items():
        print(f"{name} {figure:.3f}")
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
