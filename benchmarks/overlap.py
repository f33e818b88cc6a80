"""How much overlap of windows is enough: quality and work of prediction for several settings.

    python benchmarks/overlap.py CONFIG ... [--set KEY=VALUE ...] [--settings NAME ...]
                                 [--runs FOLDER] [--json FILE]

Each CONFIG names a trained network (run_dir or predict.checkpoint), a volume (predict.raw) and its
truth (evaluate.truth). All settings use the network, the threshold and the volume of the config.
Against the first setting, that of the recipe:

    voxels/s  of the prediction, one process; ratio to the first setting's, measured in one run
    work      voxels that the network sees for each voxel of the volume
    F1        of sides at IoU 0.5, over all volumes; difference with its 95 % interval (bootstrap
              over boxes of the volumes, the same draws for both settings)
    sides     share of found synapses whose sides are not exchanged
    seam      largest mean step of probability across a plane in which windows begin or end, divided
              by the largest across as many other planes, drawn at random; 1 is none

What is there already is not made again, so `--settings` can be extended.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from figures import tell
from polyadic import processor
from scipy import ndimage

from synpol.config import load_config
from synpol.evaluation.overlaps import evaluate_blockwise
from synpol.images.image import Image, open_image
from synpol.images.labels import open_labels
from synpol.polarity import synapse_of
from synpol.prediction.windows import Blending, WindowGrid

ROOT = Path(__file__).resolve().parents[1]
#: name: window as a multiple of train.patch, overlap, blending
SETTINGS: dict[str, tuple[tuple[float, float, float], float, Blending]] = {
    "recipe": ((1, 1, 1), 0.5, "bump"),
    "recipe by torch": ((1, 1, 1), 0.5, "bump"),
    "default": ((5 / 3, 5 / 3, 5 / 3), 0.2, "crop"),  # of the demo's patch, 12 x 96 x 96
    "default by torch": ((5 / 3, 5 / 3, 5 / 3), 0.2, "crop"),
    "default in int8": ((5 / 3, 5 / 3, 5 / 3), 0.2, "crop"),
    "2 2 2 crop 1/6": ((2, 2, 2), 1 / 6 + 1e-6, "crop"),
    "2 2 2 gaussian 0.2": ((2, 2, 2), 0.2, "gaussian"),
    "bump 0.3": ((1, 1, 1), 0.3, "bump"),
    "bump 0.2": ((1, 1, 1), 0.2, "bump"),
    "crop 0.5": ((1, 1, 1), 0.5, "crop"),
    "none": ((1, 1, 1), 0.0, "constant"),
    "1 2 2 bump 0.3": ((1, 2, 2), 0.3, "bump"),
    "2 2 2 bump 0.3": ((2, 2, 2), 0.3, "bump"),
    "2 2 2 bump 0.2": ((2, 2, 2), 0.2, "bump"),
    "2 2 2 crop 0.3": ((2, 2, 2), 0.3, "crop"),
    "3 2 2 bump 0.3": ((3, 2, 2), 0.3, "bump"),
    "3 2 2 bump 0.2": ((3, 2, 2), 0.2, "bump"),
    "3 2 2 crop 0.3": ((3, 2, 2), 0.3, "crop"),
    "3 2 2 crop 0.2": ((3, 2, 2), 0.2, "crop"),
}
#: keys of the config that a setting changes, beside its windows
CHANGES = {
    "recipe by torch": ["predict.engine=torch"],
    "default by torch": ["predict.engine=torch"],
    "default in int8": ["predict.int8=true"],
}
TILE = (1, 4, 4)  # boxes of a volume, for the bootstrap
DRAWS = 10_000


@dataclass
class Measured:
    """What one setting did to one volume: counts for each box, speed and seam."""

    found: np.ndarray
    wrong: np.ndarray
    missed: np.ndarray
    exchanged: int
    voxels: int
    seen: int
    seconds: float
    seam: float


def predict(config: str, setting: str, output: Path, changes: list[str]) -> float:
    """Predict and decode, unless it was done; returns the seconds of the prediction."""
    kept = ROOT / output / "seconds.json"
    if kept.is_file():
        return float(json.loads(kept.read_text()))
    patch = load_config([config]).train.patch
    multiple, overlap, blending = SETTINGS[setting]
    window = [round(p * m) for p, m in zip(patch, multiple, strict=True)]
    command = [
        sys.executable,
        "pipelines/predict_blockwise.py",
        config,
        *changes,
        f"predict.output={output}",
        f"predict.window={window}",
        f"predict.overlap={overlap}",
        f"predict.blending={blending}",
        *CHANGES.get(setting, []),
    ]
    took = {}
    for only in ("predict", "decode"):
        begin = time.perf_counter()
        subprocess.run([*command, "--only", only], check=True, cwd=ROOT)
        took[only] = time.perf_counter() - begin
    kept.write_text(json.dumps(took["predict"]))
    return took["predict"]


def seam(polarity: Image, grid: WindowGrid, rng: np.random.Generator) -> float:
    """Compare steps across planes where windows begin or end with those across other planes."""
    probability = np.asarray(polarity.array[:]).astype(np.float32)
    worst = []
    for axis, (starts, window) in enumerate(zip(grid.starts, grid.window, strict=True)):
        margin, length = grid.margin[axis], grid.shape[axis]
        borders = {s + margin for s in starts} | {s + window - margin for s in starts}
        at = sorted(b for b in borders if 0 < b < length)
        others = [p for p in range(1, length) if p not in borders]
        if not at or not others:
            continue
        steps = np.abs(np.diff(probability, axis=axis + 1))
        steps = steps.mean(axis=tuple(a for a in range(4) if a != axis + 1))
        drawn = rng.choice(others, min(len(at), len(others)), replace=False)
        worst.append(steps[[b - 1 for b in at]].max() / steps[drawn - 1].max())
    return float(max(worst, default=1.0))


def measure(config: str, setting: str, output: Path, changes: list[str]) -> Measured:
    """Predict a volume, and count right, wrong and missed synapses for each box of it."""
    seconds = predict(config, setting, output, changes)
    loaded = load_config([config, *changes])
    instances = open_image(f"{ROOT / output}/instances", channels=0)
    truth = open_labels(loaded.need_image("evaluate.truth"), "polarity", instances, marked=True)
    scores = evaluate_blockwise(
        instances,
        truth,
        "polarity",
        loaded.evaluate.min_size,
        loaded.decode.dilate_sz,
        block_shape=loaded.decode.block_shape,
        work_dir=ROOT / f"{output}.scores",
    )
    matchings = scores.score(0.5)
    ours, theirs = box_of(instances), box_of(truth)
    correct, missed = scores.correct(), scores.missed()
    true = [pair[1] for pair in matchings["polarity_correct"].pairs]
    polarity = open_image(f"{ROOT / output}/polarity")
    grid = grid_of(config, setting, polarity)
    return Measured(
        found=boxes([theirs[n] for n in true]),
        wrong=boxes([ours[n] for n, right in correct.items() if not right]),
        missed=boxes([theirs[n] for n in missed]),
        exchanged=matchings["synapse"].matched - matchings["polarity_correct"].matched,
        voxels=int(np.prod(instances.shape_vx)),
        seconds=seconds,
        seen=grid.count * int(np.prod(grid.window)),
        seam=seam(polarity, grid, np.random.default_rng(1)),
    )


def boxes(numbers: list[int]) -> np.ndarray:
    """Count how often each box occurs."""
    return np.bincount(np.array(numbers, int), minlength=int(np.prod(TILE)))


def box_of(labels: Image) -> dict[int, int]:
    """Return the box of a volume in which the middle of each synapse lies, by its number."""
    number = synapse_of(np.asarray(labels.array[:])).astype(np.int64)
    found = {}
    for n, place in enumerate(ndimage.find_objects(number), 1):
        if place is not None:
            middle = [(s.start + s.stop) / 2 for s in place]
            axes = zip(middle, number.shape, TILE, strict=True)
            box = [min(t - 1, int(m * t / length)) for m, length, t in axes]
            found[n] = int(np.ravel_multi_index(box, TILE))
    return found


def grid_of(config: str, setting: str, image: Image) -> WindowGrid:
    """Return the windows of a setting."""
    multiple, overlap, blending = SETTINGS[setting]
    window = [
        round(p * m) for p, m in zip(load_config([config]).train.patch, multiple, strict=True)
    ]
    return WindowGrid.of(image.shape_vx, window, overlap, blending)


def f1(found: np.ndarray, wrong: np.ndarray, missed: np.ndarray) -> np.ndarray:
    """Return F1 of counts, along the last axis."""
    twice = 2 * found.sum(axis=-1)
    return np.asarray(twice / (twice + wrong.sum(axis=-1) + missed.sum(axis=-1)))


def summary(first: list[Measured], these: list[Measured]) -> dict[str, float]:
    """Compare a setting with the first one."""

    def counts(several: list[Measured]) -> list[np.ndarray]:
        kinds = ("found", "wrong", "missed")
        return [np.concatenate([getattr(m, k) for m in several]) for k in kinds]

    theirs, ours = counts(first), counts(these)
    draw = np.random.default_rng(1).integers(len(ours[0]), size=(DRAWS, len(ours[0])))
    difference = f1(*(c[draw] for c in ours)) - f1(*(c[draw] for c in theirs))
    low, high = np.quantile(difference, (0.025, 0.975))
    found = int(ours[0].sum())
    exchanged = sum(m.exchanged for m in these)
    speed = [sum(m.voxels for m in several) / sum(m.seconds for m in several)
             for several in (first, these)]  # fmt: skip
    return {
        "voxels_per_s": speed[1],
        "ratio": speed[1] / speed[0],
        "work": sum(m.seen for m in these) / sum(m.voxels for m in these),
        "f1": float(f1(*ours)),
        "difference": float(f1(*ours) - f1(*theirs)),
        "low": float(low),
        "high": float(high),
        "sides_right": found / max(1, found + exchanged),
        "seam": max(m.seam for m in these),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("configs", nargs="+", help="each of a trained network and a volume")
    parser.add_argument("--set", nargs="*", default=[], help="KEY=VALUE for every config")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--runs", type=Path, default=Path("runs/overlap"))
    parser.add_argument("--json", type=Path, help="write the figures as a flat object")
    given = parser.parse_args()
    if given.settings[0] != "recipe":
        given.settings.insert(0, "recipe")
    figures: dict[str, float] = {}
    first: list[Measured] = []
    header = (
        f"{'setting':<18} voxels/s   ratio   work      F1  difference (95 %)          sides   seam"
    )
    lines = [header]
    for setting in given.settings:
        these = []
        for number, config in enumerate(given.configs):
            output = given.runs / f"{number}_{Path(config).stem}" / setting.replace(" ", "_")
            these.append(measure(config, setting, output, given.set))
        first = first or these
        row = summary(first, these)
        figures |= {f"{setting}.{k}": v for k, v in row.items()}
        lines.append(
            f"{setting:<18} {row['voxels_per_s']:8.0f} {row['ratio']:7.2f} {row['work']:6.2f} "
            f"{row['f1']:7.3f} "
            f"{row['difference']:+7.3f} ({row['low']:+.3f}..{row['high']:+.3f}) "
            f"{row['sides_right']:7.3f} {row['seam']:6.2f}"
        )
        print(lines[-1], flush=True)
    print(f"{processor()}; Python {platform.python_version()}, torch {version('torch')}")
    print("\n".join(lines))
    tell(figures, given.json)


if __name__ == "__main__":
    main()
