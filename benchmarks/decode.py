"""Decoding speed: synpol, disk to disk, against the same decode in memory and against peers.

    python benchmarks/decode.py [--shape 256 1024 1024] [--repeats 5] [--no-peers]
                                [--against REV] [--json FILE]

The prediction is 3 x 256 x 1024 x 1024 uint8 with 0.5 to 1 % foreground, blocks are 128 x 256 x
256. Times are medians; the contenders take turns within one run.

Decoding: (a) and (b) get the array in memory and keep their result there; synpol reads and writes
Zarr, and its time is that of a whole process with its imports and its workers' start.

Labeling alone: face-connected components of the union, 0/1, disk to disk, from after the imports
to the labels on disk; two workers, synpol also with one, and ratios are to its faster figure. Each
peer runs in an environment of its own (benchmarks/peers, made by uv at the first use; what it
says of itself is in its script). The slow ones run once, dask-image on a quarter of the volume.
Every labeling is compared with cc3d's.

With --against REV it measures that commit and this tree instead, in turns: decoding and labeling
alone, by one worker and by two. Their results have to be the same.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

import cc3d
import numpy as np
import scipy.ndimage as nd
import zarr
from against import ROOT, Run, build_of, compared, head, in_turns, run_with
from figures import tell
from skimage.measure import label
from skimage.morphology import dilation

from synpol.images.image import open_image
from synpol.images.writing import create_image
from synpol.polarity import PLAIN, Channels

BLOCK = (128, 256, 256)
THRES_SMALL, DILATE = 128, 5


def make_prediction(folder: Path, shape: tuple[int, int, int]) -> float:
    """Synapse-like boxes over noise that stays below the threshold; returns the foreground."""
    rng = np.random.default_rng(0)
    size = (8, 20, 24)
    count = int(0.008 * np.prod(shape) / np.prod(size))
    volume = np.zeros((Channels.count, *shape), np.uint8)
    for _ in range(count):
        z, y, x = (int(rng.integers(0, s - d)) for s, d in zip(shape, size, strict=True))
        value = rng.integers(100, 256)
        PLAIN.pre(volume)[z : z + 8, y : y + 20, x : x + 12] = value
        PLAIN.post(volume)[z : z + 8, y : y + 20, x + 12 : x + 24] = value
        PLAIN.union(volume)[z : z + 8, y : y + 20, x : x + 24] = value
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
        shard_shape=(Channels.count, *BLOCK),
    )
    image.array[:] = volume
    return float((PLAIN.union(volume) > 127).mean())


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


def decode_command(prediction: Path, output: Path, workers: int) -> list[str]:
    """A process that decodes, with the table."""
    code = (
        f"import synpol; synpol.decode_blockwise('{prediction}', '{output}', "
        f"block_shape={BLOCK}, num_workers={workers}, thres_small={THRES_SMALL}, "
        f"dilate_sz={DILATE}, synapses='{output}/synapses.parquet')"
    )
    return [sys.executable, "-c", code]


def synpol_run(folder: Path, workers: int) -> Callable[[], None]:
    """A decode in a process of its own."""
    command = decode_command(folder / "polarity", folder / f"out{workers}", workers)

    def run() -> None:
        for path in (f"out{workers}", f"out{workers}.work"):
            shutil.rmtree(folder / path, ignore_errors=True)
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)

    return run


#: script, runs, and how much smaller along every axis but the first its volume is
PEERS = {
    "tilewise-ccl": ("tilewise", 3, 1),
    "bioimage-py": ("bioimage", 3, 1),
    "streamccl": ("streamccl_label", 3, 1),
    "cellmap-analyze": ("cellmap", 1, 1),
    "igneous": ("igneous_ccl", 1, 1),
    "dask-image": ("dask_image_label", 1, 2),
}
WORKERS = 2


def make_mask(folder: Path, union: np.ndarray) -> None:
    """The union as a 0/1 array for the peers, and as the channel of a polarity array for synpol."""
    mask = zarr.create_array(
        folder / "mask", shape=union.shape, chunks=(64, 128, 128), dtype=np.uint8
    )
    mask[:] = union
    polarity = create_image(
        folder,
        "polarity",
        shape=(Channels.count, *union.shape),
        dtype=np.uint8,
        voxel_size=(30, 8, 8),
        offset=(0, 0, 0),
        unit="nm",
        chunk_shape=(1, 64, 128, 128),
    )
    polarity.array[PLAIN.index("union")] = np.where(union, 255, 0).astype(np.uint8)


def label_with_synpol(folder: Path, workers: int) -> float:
    """Seconds that `decode_blockwise` takes for labeling alone, in a process of its own."""
    for path in ("synpol", "synpol.work"):
        shutil.rmtree(folder / path, ignore_errors=True)
    command = label_command(folder / "polarity", folder / "synpol", workers)
    run = subprocess.run(command, check=True, capture_output=True, text=True, timeout=3600)
    return float(run.stdout.split()[-1])


def label_command(prediction: Path, output: Path, workers: int) -> list[str]:
    """A process that labels alone, and prints its seconds without those of its imports."""
    code = (
        "import time; from synpol import decode_blockwise; started = time.perf_counter(); "
        f"decode_blockwise('{prediction}', '{output}', block_shape={BLOCK}, "
        f"num_workers={workers}, sides=False, dilate_sz=1, thres_small=1); "
        "print(time.perf_counter() - started)"
    )
    return [sys.executable, "-c", code]


def compare_builds(folder: Path, revision: str, repeats: int) -> dict[str, float]:
    """Measure an older build beside this one; see `against`."""
    figures: dict[str, float] = {}
    with build_of(revision) as old:
        head(revision)
        for what, command in (("decode", decode_command), ("label alone", label_command)):
            seconds = {}
            for workers in (1, 2):
                output = folder / "compared"
                job = Compared(output, command(folder / "polarity", output, workers))
                runs = in_turns({"old": old, "new": ROOT}, repeats, job.run)
                if job.found[old] != job.found[ROOT]:
                    raise RuntimeError(f"{what}: {revision} and this tree disagree")
                figures |= compared(f"{what}, {workers} workers", runs["old"], runs["new"])
                seconds[workers] = [run.seconds for run in runs["new"]]
            ratios = [one / two for one, two in zip(seconds[1], seconds[2], strict=True)]
            figures[f"{what.replace(' ', '_')}_two_workers_over_one"] = statistics.median(ratios)
    return figures


@dataclass
class Compared:
    """A command that writes `output`, and the files that each build wrote."""

    output: Path
    command: list[str]
    found: dict[Path, list[bytes]] = field(default_factory=dict)

    def run(self, build: Path) -> Run:
        """Run the command with a build of synpol."""
        for path in (self.output, Path(f"{self.output}.work")):
            shutil.rmtree(path, ignore_errors=True)
        run = run_with(build, self.command)
        if run.told:  # it says its seconds itself
            run = replace(run, seconds=float(run.told))
        files = [*sorted(self.output.rglob("c/*/*/*")), *self.output.glob("*.parquet")]
        self.found[build] = [file.read_bytes() for file in files]
        return run


def label_with_peer(folder: Path, script: str, check: bool) -> dict[str, float]:
    """What a peer's script prints of itself."""
    uv = Path(sys.executable).with_name("uv")
    command = [uv, "run", "--no-project", "--quiet", "--python", sys.executable, "--script"]
    command += [Path(__file__).with_name("peers") / f"{script}.py", folder / "mask", folder / "out"]
    command += ["--block", *BLOCK, "--workers", WORKERS]
    command += ["--check", folder / "check.npy"] if check else []
    compiled = os.environ | {"UV_COMPILE_BYTECODE": "1"}  # as the Makefile installs synpol's
    run = subprocess.run(
        [str(c) for c in command], capture_output=True, text=True, timeout=3600, env=compiled
    )
    if run.returncode:
        raise RuntimeError(f"{script} failed:\n{run.stderr[-3000:]}")
    return json.loads(run.stdout.strip().splitlines()[-1])


def same_partition(labels: np.ndarray, other: np.ndarray) -> bool:
    """Whether two labelings mean the same components."""
    if not np.array_equal(labels > 0, other > 0):
        return False
    inside = labels > 0
    pairs = np.unique(np.stack([labels[inside], other[inside]]), axis=1)
    return len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]


def labeling(folder: Path, union: np.ndarray) -> dict[str, float]:
    """Compare the labeling alone with the peers; returns figures and prints rows."""
    print(f"\n{'labeling alone':<18} {'volume':<16} {'runs':>4} {'seconds':>8} synpol 1, 2 ratio")
    figures: dict[str, float] = {}
    for shrink in (1, 2):
        part = union[:, : union.shape[1] // shrink, : union.shape[2] // shrink]
        place = folder / f"labeling-{shrink}"
        make_mask(place, part)
        truth = cc3d.connected_components(np.ascontiguousarray(part), connectivity=6)
        ours: dict[int, list[float]] = {1: [], WORKERS: []}
        theirs: dict[str, list[float]] = {}
        mine = {name: peer for name, peer in PEERS.items() if peer[2] == shrink}
        for turn in range(3):
            for workers, seconds in ours.items():
                seconds.append(label_with_synpol(place, workers))
            for name, (script, runs, _) in mine.items():
                if turn < runs:
                    told = label_with_peer(place, script, check=turn == 0)
                    theirs.setdefault(name, []).append(told["seconds"])
                    if turn == 0 and not same_partition(np.load(place / "check.npy"), truth):
                        raise RuntimeError(f"{name} and cc3d disagree")
        found = np.asarray(open_image(place / "synpol" / "instances").array[:])
        if not same_partition(found, truth):
            raise RuntimeError("synpol and cc3d disagree")
        one, two = (statistics.median(seconds) for seconds in ours.values())
        here = min(one, two)
        for name, seconds in theirs.items():
            there = statistics.median(seconds)
            shape = "x".join(map(str, part.shape))
            print(
                f"{name:<18} {shape:<16} {len(seconds):>4} {there:8.2f} {one:6.2f} {two:5.2f} "
                f"{there / here:.2f}"
            )
            figures[f"over_{name.replace('-', '_')}"] = there / here
        shutil.rmtree(place)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", type=int, nargs=3, default=(256, 1024, 1024))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-peers", action="store_true", help="decoding only")
    parser.add_argument("--against", metavar="REV", help="a commit to measure beside this tree")
    parser.add_argument("--json", type=Path, help="write the figures as a flat object")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        foreground = make_prediction(folder, tuple(given.shape))
        if given.against:
            tell(compare_builds(folder, given.against, given.repeats), given.json)
            return
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
        report(given, folder, volume, foreground, seconds)


def report(
    given: argparse.Namespace,
    folder: Path,
    volume: np.ndarray,
    foreground: float,
    seconds: dict[str, list[float]],
) -> None:
    """Print the tables; label with the peers in between."""
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
    if not given.no_peers:
        figures |= labeling(folder, PLAIN.union(volume) > 127)
    tell(figures, given.json)


if __name__ == "__main__":
    main()
