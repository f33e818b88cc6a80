"""What each element of the recipe is worth: the demo trained without it.

    python benchmarks/ablation.py [--config configs/demo.yaml] [--only NAME ...] [--plot FILE]
                                  [--json FILE]

The same data, seed and number of iterations each time; the threshold is chosen anew for each on the
validation volume, and the score is that of the held-out volume. Run pipelines/prepare.py with the
same config first. Finished trainings are not repeated. The plot shows, for all that differ in what
tells the sides apart, the share of the voxels of known side that get the right one, over iterations
(a running mean over 50). One seed: differences of a few hundredths of F1 say nothing.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from demo import FOUR_PATCHES
from figures import tell

from synpol.report.figures import new_figure

ROOT = Path(__file__).resolve().parents[1]
NO_AUGMENTATION = [
    "augment.flip=false",
    "augment.rotate90=false",
    "augment.section_contrast=0",
    "augment.section_brightness=0",
    *(f"augment.{k}_p=0" for k in ("elastic", "misalign", "gamma", "noise", "blur", "missing")),
]
#: what is told of each in the table: the name, what is changed, and whether it is about sides
VARIANTS = {
    "full": ([], True),
    "no rejection": (["reject_sampling.size_thres=0"], False),
    "no weights": (["loss.weight_max=1"], False),
    "no EMA": (["train.ema=0"], False),
    "no augmentation": (NO_AUGMENTATION, False),
    "plain recipe": (["loss.side_contrast=0"], True),
    "older non-overlap": (["loss.side_contrast=0", "loss.non_overlap=4"], True),
    "exclusive": (["exclusive=true"], True),
    "exclusive, plain": (["exclusive=true", "loss.side_contrast=0"], True),
}


def run(config: str, name: str, overrides: list[str], runs: Path) -> dict[str, float]:
    """Train, tune, predict and score one variant; finished steps are not repeated."""
    run_dir = folder_of(runs, name)
    common = [
        config,
        *FOUR_PATCHES,
        *overrides,
        f"run_dir={run_dir}",
        f"predict.output={run_dir}/heldout",
    ]
    tuned = f"{run_dir}/tuned.yaml"
    started = time.monotonic()
    for step, extra in (
        ("train", []),
        ("tune", []),
        ("predict_blockwise", [tuned]),
        ("evaluate", [tuned]),
    ):
        command = [sys.executable, f"{ROOT}/pipelines/{step}.py", *common, *extra]
        subprocess.run(command, check=True, cwd=ROOT)
    print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
    scores = json.loads((run_dir / "heldout" / "scores.json").read_text())["iou"]
    sides = right_sides(run_dir)
    return {
        "polarity_f1": scores["0.5"]["polarity_correct"]["f1"],
        "polarity_f1_iou_0.3": scores["0.3"]["polarity_correct"]["f1"],
        "synapse_f1": scores["0.5"]["synapse"]["f1"],
        "side_right": float(np.nanmean(sides[-100:])),
        "iterations": float(len(sides)),
    }


def folder_of(runs: Path, name: str) -> Path:
    return runs / plain(name)


def plain(name: str) -> str:
    """A name as a folder or a key."""
    return name.replace(",", "").replace(" ", "_")


def right_sides(run_dir: Path) -> np.ndarray:
    """The share of right sides after every iteration, NaN where no side was known."""
    with open(run_dir / "log.csv", newline="") as file:
        return np.array([float(row["side_right"]) for row in csv.DictReader(file)])


def plot(names: list[str], runs: Path, path: Path) -> None:
    figure, axes = new_figure(7, 4)
    for name in names:
        sides = right_sides(folder_of(runs, name))
        mean = [np.nanmean(sides[max(0, i - 49) : i + 1]) for i in range(len(sides))]
        axes.plot(np.arange(1, len(sides) + 1), mean, label=name)
    axes.axhline(0.5, color="grey", linewidth=0.5)
    axes.set(xlabel="iteration", ylabel="side right", ylim=(0.4, 1))
    axes.legend()
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/demo.yaml")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--runs", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", type=Path, help="write the figures as a flat object")
    given = parser.parse_args()
    found = {n: run(given.config, n, VARIANTS[n][0], given.runs) for n in given.only}
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}")
    print(f"{'variant':<18} polarity F1  (IoU 0.3)  synapse F1  side right  iterations")
    for name, row in found.items():
        print(
            f"{name:<18} {row['polarity_f1']:11.3f} {row['polarity_f1_iou_0.3']:10.3f} "
            f"{row['synapse_f1']:11.3f} {row['side_right']:11.3f} {row['iterations']:11.0f}"
        )
    if given.plot:
        plot([n for n in given.only if VARIANTS[n][1]], given.runs, given.plot)
    figures = {
        f"{key}_{plain(name)}": value for name, row in found.items() for key, value in row.items()
    }
    tell(figures, given.json)


if __name__ == "__main__":
    main()
