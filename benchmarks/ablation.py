"""What rejection and side contrast are worth: the demo trained without each, and without both.

    python benchmarks/ablation.py [--json FILE] [--config configs/demo.yaml]

The same data, seed and number of iterations each time; the threshold is chosen anew for each on the
validation volume, and the score is that of the held-out volume. Run pipelines/prepare.py with the
same config first. Four trainings: about half an hour on two cores.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
VARIANTS = {
    "full": [],
    "no_rejection": ["reject_sampling.size_thres=0"],
    "no_side_contrast": ["loss.side_contrast=0"],
    "neither": ["reject_sampling.size_thres=0", "loss.side_contrast=0"],
}


def run(config: str, name: str, overrides: list[str], runs: Path) -> dict[str, float]:
    """Train, tune, predict and score one variant; finished steps are not repeated."""
    run_dir = runs / name
    common = [config, *overrides, f"run_dir={run_dir}", f"predict.output={run_dir}/heldout"]
    tuned = f"{run_dir}/tuned.yaml"
    for step, extra in (
        ("train", []),
        ("tune", []),
        ("predict_blockwise", [tuned]),
        ("evaluate", [tuned]),
    ):
        command = [sys.executable, f"{ROOT}/pipelines/{step}.py", *common, *extra]
        subprocess.run(command, check=True, cwd=ROOT)
    scores = json.loads((run_dir / "heldout" / "scores.json").read_text())["iou"]
    with open(run_dir / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    last = [float(r["side_right"]) for r in rows[-100:] if r["side_right"] != "nan"]
    return {
        f"polarity_f1_{name}": scores["0.5"]["polarity_correct"]["f1"],
        f"polarity_f1_iou_0.3_{name}": scores["0.3"]["polarity_correct"]["f1"],
        f"synapse_f1_{name}": scores["0.5"]["synapse"]["f1"],
        f"side_right_{name}": sum(last) / len(last),
        f"iterations_{name}": float(len(rows)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures as a flat object")
    parser.add_argument("--config", default="configs/demo.yaml")
    parser.add_argument("--runs", type=Path, default=Path("runs/ablation"))
    given = parser.parse_args()
    figures: dict[str, float] = {}
    for name, overrides in VARIANTS.items():
        figures |= run(given.config, name, overrides, given.runs)
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}")
    print(f"{'variant':<18} polarity F1  (IoU 0.3)  synapse F1  side right  iterations")
    for name in VARIANTS:
        print(
            f"{name:<18} {figures[f'polarity_f1_{name}']:11.3f} "
            f"{figures[f'polarity_f1_iou_0.3_{name}']:10.3f} {figures[f'synapse_f1_{name}']:11.3f} "
            f"{figures[f'side_right_{name}']:11.3f} {figures[f'iterations_{name}']:11.0f}"
        )
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
