"""Insect tissue: how many links are found by a network that learned from links alone.

    python benchmarks/polyadic.py [--config configs/polyadic.yaml] [--iterations N] [--json FILE]

The same network is trained twice: on labels made from links and neurons (prepare.links), and on the
true masks. For each, decode.thres and connect.min_fraction are chosen by the F1 of links on the
validation volume; then the links of the held-out volume are scored against the true ones, with
connect.partners `all` and `largest`. Neurons are given.
What is there already is not made again. One seed: differences of a few hundredths say nothing.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pyarrow.parquet as pq
import yaml
from figures import tell

ROOT = Path(__file__).resolve().parents[1]
THRESHOLDS = [0.5, 0.6, 0.7, 0.8]
FRACTIONS = [0.05, 0.1]
#: where the labels lie, beside each image that is trained on
LABELS = {"links": "from_links", "masks": "truth"}


def step(name: str, *arguments: str) -> None:
    """Run a pipeline."""
    command = [f"pipelines/{name}.py", *arguments]
    print(shlex.join(["python", *command]), flush=True)
    subprocess.run([sys.executable, *command], check=True, cwd=ROOT)


def labelled(config: Path, labels: str, run_dir: Path) -> Path:
    """Write a config that names the labels to learn from, and the folder of the run."""
    data = yaml.safe_load(config.read_text())["data"]
    for volume in data["train"]:
        volume["truth"] = f"{Path(volume['truth']).parent}/{labels}"
    path = ROOT / run_dir.with_suffix(".yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"run_dir": str(run_dir), "data": data}))
    return path


def links_found(configs: list[str], output: Path, volume: Path, *changes: str) -> dict[str, float]:
    """Connect the synapses of a volume, and score their links against the true ones."""
    common = [*configs, f"predict.output={output}", *changes]
    step("connect", *common, f"connect.segmentation={volume / 'neurons'}")
    if not pq.read_metadata(ROOT / output / "links.parquet").num_rows:
        return dict.fromkeys(("precision", "recall", "f1", "one_post"), 0.0)
    step("evaluate_links", *common, f"evaluate.links.truth.path={volume / 'true_links.parquet'}")
    scores = json.loads((ROOT / output / "link_scores.json").read_text())
    return {
        "precision": scores["precision"],
        "recall": scores["recall"],
        "f1": scores["f1"],
        "one_post": scores["recall_of_one_post"],
    }


def run(config: str, name: str, runs: Path, changes: list[str]) -> dict[str, dict[str, float]]:
    """Train on one kind of labels, choose on the validation volume, score on the held-out one."""
    run_dir = runs / name
    configs = [config, str(labelled(ROOT / config, LABELS[name], run_dir)), *changes]
    step("train", *configs)
    validation, heldout = runs / "data" / "validation", runs / "heldout"
    found = {}
    for thres in THRESHOLDS:
        decode = [*configs, f"decode.thres={thres}"]
        predicted(decode, run_dir, validation)
        for fraction in FRACTIONS:
            changes = [f"connect.min_fraction={fraction}"]
            scores = links_found(decode, run_dir / "validation", validation, *changes)
            found[thres, fraction] = scores["f1"]
    for (thres, fraction), f1 in found.items():
        print(f"validation: thres {thres}, min_fraction {fraction}: F1 of links {f1:.3f}")
    thres, fraction = max(found, key=lambda key: found[key])
    configs += [f"decode.thres={thres}", f"connect.min_fraction={fraction}"]
    predicted(configs, run_dir, heldout)
    rows = {}
    for partners in ("largest", "all"):
        kind = f"connect.partners={partners}"
        rows[partners] = links_found(configs, run_dir / "heldout", heldout, kind)
        chosen = {"thres": thres, "min_fraction": fraction, "f1_validation": found[thres, fraction]}
        rows[partners] |= {"training_minutes": trained(ROOT / run_dir / "log.csv") / 60, **chosen}
    return rows


def predicted(configs: list[str], run_dir: Path, volume: Path) -> None:
    """Predict and decode a volume."""
    output = [f"predict.raw={volume / 'raw'}", f"predict.output={run_dir / volume.name}"]
    step("predict_blockwise", *configs, *output)


def trained(log: Path) -> float:
    """Return how long the training took, s."""
    with log.open(newline="") as file:
        return float(list(csv.DictReader(file))[-1]["seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/polyadic.yaml")
    parser.add_argument("--only", nargs="+", choices=LABELS, default=list(LABELS))
    parser.add_argument("--iterations", type=int, help="of each training; default: the config's")
    parser.add_argument("--json", type=Path, help="write the figures as a flat object")
    given = parser.parse_args()
    runs = ROOT / yaml.safe_load((ROOT / given.config).read_text())["run_dir"]
    runs = runs.relative_to(ROOT)
    changes = []
    if given.iterations is not None:
        changes = [f"train.iterations={given.iterations}"]
    step("prepare", given.config)
    found = {name: run(given.config, name, runs, changes) for name in given.only}
    print(f"\npython {shlex.join(sys.argv)}")
    versions = ", ".join(f"{name} {version(name)}" for name in ("synpol", "torch"))
    print(f"{processor()}; Python {platform.python_version()}, {versions}")
    print(f"{'learned from':<12} {'partners':<8} precision recall     F1  (recall of one post)")
    for name, rows in found.items():
        for partners, row in rows.items():
            print(
                f"{name:<12} {partners:<8} {row['precision']:9.3f} {row['recall']:6.3f} "
                f"{row['f1']:6.3f}  ({row['one_post']:.3f})"
            )
    figures = {
        f"{name}_{partners}_{key}": value
        for name, rows in found.items()
        for partners, row in rows.items()
        for key, value in row.items()
    }
    tell(figures, given.json)


def processor() -> str:
    """Return the name of the processor."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.machine()


if __name__ == "__main__":
    main()
