"""What the demo takes and how well its network does: time and F1 of `make demo` after the install.

    python benchmarks/demo.py [--seeds N ...] [--config FILE] [--set KEY=VALUE ...] [--against REV]
                              [--runs FOLDER] [--json FILE]

Each seed trains a network of its own on the same tissue, in an empty folder of its own. With
`--against` the same is done by the pipelines of another revision, after each seed, so that both
meet the same machine. A folder whose demo has ended is not made again.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import shlex
import shutil
import sys
from collections import defaultdict
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path

import numpy as np
from against import build_of, run_with
from figures import tell
from polyadic import processor

ROOT = Path(__file__).resolve().parents[1]
#: features of a processor that decide how fast a network is
FEATURES = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16")

#: the demo as it was when the tables that compare settings were begun; their benchmarks go on so
FOUR_PATCHES = [
    "model.residual=true",
    "loss.deep_supervision=0",
    "train.batch_size=4",
    "train.iterations=1000",
    "train.lr=4e-3",
    "train.warmup=0",
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--config", default="configs/demo.yaml")
    parser.add_argument("--set", nargs="+", default=[], help="changes of the config")
    parser.add_argument("--against", help="a revision whose demo is run beside this one")
    parser.add_argument("--runs", type=Path, default=Path("runs/demos"))
    parser.add_argument("--json", type=Path, help="write the figures as a flat object")
    given = parser.parse_args()
    rows: dict[str, list[dict[str, float]]] = defaultdict(list)
    with build_of(given.against) if given.against else nullcontext() as other:
        for seed in given.seeds:
            folder = given.runs.absolute()
            changes = [f"seed={seed}"]
            mine = one_demo(ROOT, given.config, folder / f"now_{seed}", [*changes, *given.set])
            rows["now"].append(mine)
            if other is not None:
                old = one_demo(other, given.config, folder / f"{given.against}_{seed}", changes)
                rows[given.against].append(old)
    print(f"\npython {shlex.join(sys.argv)}")
    versions = ", ".join(f"{name} {version(name)}" for name in ("synpol", "torch"))
    print(f"{processor()} ({features()}); Python {platform.python_version()}, {versions}")
    print("held-out volume, IoU 0.5; seconds of the whole demo, its training, and an iteration")
    print(f"{'':<12} seed  seconds  training  iteration     F1  precision  recall")
    figures: dict[str, float] = {}
    for name, found in rows.items():
        for seed, row in zip(given.seeds, found, strict=True):
            print(
                f"{name[:12]:<12} {seed:4d} {row['seconds']:8.0f} {row['training']:9.0f} "
                f"{row['iteration']:10.3f} {row['f1']:6.3f} {row['precision']:10.3f} "
                f"{row['recall']:7.3f}"
            )
            figures |= {f"{key}_{name}_{seed}": value for key, value in row.items()}
        for key in ("seconds", "iteration", "f1"):
            figures[f"{key}_{name}_mean"] = float(np.mean([row[key] for row in found]))
    tell(figures, given.json)


def one_demo(tree: Path, config: str, folder: Path, changes: list[str]) -> dict[str, float]:
    """Run the demo of a source tree in a folder, unless it has ended there; return its figures."""
    result = folder / "figures.json"
    if result.is_file():
        found: dict[str, float] = json.loads(result.read_text())
        return found
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    own = folder / "demo.yaml"
    own.write_text((tree / config).read_text().replace("runs/demo", str(folder / "run")))
    command = [str(tree / "pipelines" / "demo.py"), str(own), *changes]
    print(shlex.join(["python", *command]), flush=True)
    ran = run_with(tree, [sys.executable, *command], tree)
    with (folder / "run" / "log.csv").open() as file:
        ends = [float(row["seconds"]) for row in csv.DictReader(file)]
    scores = json.loads((folder / "run" / "heldout" / "scores.json").read_text())
    at = scores["iou"]["0.5"]["polarity_correct"]
    found = {"seconds": ran.seconds, "training": ends[-1]}
    found["iteration"] = float(np.median(np.diff(ends)))
    found |= {key: at[key] for key in ("f1", "precision", "recall")}
    result.write_text(json.dumps(found))
    return found


def features() -> str:
    """Return which of `FEATURES` the processor has."""
    file = Path("/proc/cpuinfo")
    flags = set(file.read_text().split()) if file.is_file() else set()
    return ", ".join(f"{'' if name in flags else 'no '}{name}" for name in FEATURES)


if __name__ == "__main__":
    main()
