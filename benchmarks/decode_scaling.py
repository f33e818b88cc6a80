"""Decoding cost over volume size: memory of every process, and time per voxel.

    python benchmarks/decode_scaling.py [--shape 256 1024 1024] [--against REV] [--json FILE]

Decodes the prediction of benchmarks/decode.py, and one 16 times as large that is made of 2 x 2 x 4
copies of it, in blocks of 128 x 256 x 256, with one worker (the driver itself) and with two. Peak
memory is the highest resident set of any process of the job, as the kernel keeps it (VmHWM).

A worker reads in threads beside its computing, so a lone one uses part of a second core. On a
cluster a worker has the cores that its job asked for; so one worker is also held to a single core.

With --against REV it measures that commit and this tree instead, in turns.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import platform
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
from against import ROOT, Run, build_of, compared, head, in_turns, run_with
from decode import decode_command, make_prediction
from figures import tell

from synpol.images.image import open_image
from synpol.images.writing import create_image
from synpol.polarity import Channels

COPIES = (2, 2, 4)


def enlarge(small: Path, large: Path) -> None:
    """Write a prediction that is made of copies of another."""
    source = open_image(small / "polarity")
    tile = np.asarray(source.array[:])
    shape = tile.shape[1:]
    image = create_image(
        large,
        "polarity",
        shape=(Channels.count, *(s * n for s, n in zip(shape, COPIES, strict=True))),
        dtype=np.uint8,
        voxel_size=source.voxel_size,
        offset=source.offset,
        unit=source.unit,
        chunk_shape=source.array.chunks,
        shard_shape=source.array.shards,
    )
    for place in np.ndindex(COPIES):
        where = (slice(p * s, (p + 1) * s) for p, s in zip(place, shape, strict=True))
        image.array[(slice(None), *where)] = tile


def decode(folder: Path, workers: int, build: Path = ROOT, *, cores: int | None = None) -> Run:
    """Decode, on all cores or the first few, and remove what came out."""
    held = ["taskset", "-c", f"0-{cores - 1}"] if cores else []
    command = decode_command(folder / "polarity", folder / "out", workers)
    run = run_with(build, [*held, *command])
    for left in ("out", "out.work"):
        shutil.rmtree(folder / left)
    return run


def compare_builds(folders: tuple[Path, ...], revision: str, repeats: int) -> dict[str, float]:
    """Measure an older build beside this one; see `against`."""
    figures: dict[str, float] = {}
    with build_of(revision) as old:
        head(revision)
        for folder, workers in itertools.product(folders, (1, 2)):
            runs = in_turns(
                {"old": old, "new": ROOT}, repeats, functools.partial(decode, folder, workers)
            )
            figures |= compared(f"{folder.name}, {workers} workers", runs["old"], runs["new"])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", type=int, nargs=3, default=(256, 1024, 1024))
    parser.add_argument("--against", metavar="REV", help="a commit to measure beside this tree")
    parser.add_argument("--repeats", type=int, default=3, help="turns, with --against")
    parser.add_argument("--json", type=Path, help="write the figures as a flat object")
    given = parser.parse_args()
    print(f"{platform.machine()}, Python {platform.python_version()}, ", end="")
    print(", ".join(f"{p} {version(p)}" for p in ("numpy", "zarr", "daisy")))
    print(f"{'voxels':>14} {'workers':>7} {'cores':>5} {'seconds':>8} ", end="")
    print(f"{'processor s':>11} {'ns a voxel':>11} {'peak MB':>8}")
    seconds, peak = {}, {}
    with tempfile.TemporaryDirectory() as place:
        small, large = Path(place) / "small", Path(place) / "large"
        make_prediction(small, tuple(given.shape))
        enlarge(small, large)
        if given.against:
            tell(compare_builds((small, large), given.against, given.repeats), given.json)
            return
        for folder in (small, large):
            voxels = int(np.prod(open_image(folder / "polarity").shape_vx))
            for workers, cores in ((1, 1), (1, None), (2, None)):
                job = (folder.name, workers, cores)
                run = decode(folder, workers, cores=cores)
                seconds[job], peak[job] = run.seconds, run.peak
                print(
                    f"{voxels:>14,} {workers:>7} {cores or 'all':>5} {seconds[job]:8.1f} "
                    f"{run.processor_seconds:11.1f} "
                    f"{1e9 * seconds[job] / voxels:11.2f} {peak[job] / 1e6:8.0f}",
                    flush=True,
                )
    times = int(np.prod(COPIES))
    figures = {"peak_bytes": float(max(peak.values()))}
    for workers, name in ((1, "one_worker"), (2, "two_workers")):
        few, many = ("small", workers, None), ("large", workers, None)
        figures[f"peak_large_over_small_{name}"] = peak[many] / peak[few]
        figures[f"time_per_voxel_large_over_small_{name}"] = seconds[many] / seconds[few] / times
    two = seconds["large", 2, None]
    figures["two_workers_over_one"] = seconds["large", 1, None] / two
    figures["two_workers_over_one_on_a_core"] = seconds["large", 1, 1] / two
    tell(figures, given.json, ".4g")


if __name__ == "__main__":
    main()
