"""Volumes that are annotated in part: what is learned where the rest is marked as unknown.

    python benchmarks/unknown.py [--config configs/demo.yaml] [--iterations N] [--seeds SEED ...]
                                 [--only NAME ...] [--runs FOLDER] [--json FILE]

Half of the synapses of each training volume lose their labels. Five networks learn from the rest:

    half_unknown        labels in one half along x; the other half is unknown
    half_alone          the annotated half alone
    half_background     the other half is taken for background
    scattered_unknown   every second synapse, all over the volume; the others are unknown, and so is
                        the box around each, 96 nm larger on every side
    scattered_background  the others are taken for background

The first three are trained by default. Each chooses its threshold on the validation volume, which
is annotated whole, and is scored on the held-out volume. What is there already is not made again.
All of it runs on the CPU. One seed: differences of a few hundredths of F1 say nothing; with several
seeds the table has the means.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from demo import FOUR_PATCHES
from figures import tell
from polyadic import processor
from scipy import ndimage

from synpol.images.image import Image, open_image
from synpol.images.writing import create_image
from synpol.polarity import synapse_of

ROOT = Path(__file__).resolve().parents[1]
#: nm; what is marked around a synapse that is unknown
MARGIN = 96

#: a function of labels and their voxel size (nm) to where they stay
type Split = Callable[[np.ndarray, tuple[float, ...]], np.ndarray]


def half(labels: np.ndarray, voxel_size: tuple[float, ...]) -> np.ndarray:
    """Return where the first half along x is."""
    known = np.zeros(labels.shape, bool)
    known[..., : labels.shape[2] // 2] = True
    return known


def scattered(labels: np.ndarray, voxel_size: tuple[float, ...]) -> np.ndarray:
    """Return where no synapse of an even number is near; one of an odd number beside it stays."""
    number = synapse_of(labels).astype(np.int64)
    grow = [round(MARGIN / v) for v in voxel_size]
    known = np.ones(labels.shape, bool)
    for n, box in enumerate(ndimage.find_objects(number), 1):
        if box is not None and n % 2 == 0:
            axes = zip(box, grow, strict=True)
            known[tuple(slice(max(0, s.start - g), s.stop + g) for s, g in axes)] = False
    known[number % 2 == 1] = True
    return known


#: how the labels of each are split, and what is done with the part that lost its labels
VARIANTS: dict[str, tuple[Split, str]] = {
    "half_unknown": (half, "unknown"),
    "half_alone": (half, "alone"),
    "half_background": (half, "background"),
    "scattered_unknown": (scattered, "unknown"),
    "scattered_background": (scattered, "background"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/demo.yaml")
    parser.add_argument("--iterations", type=int, default=1000, help="of each training")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1], help="a training for each")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS)[:3])
    parser.add_argument("--runs", type=Path, default=Path("runs/unknown"))
    parser.add_argument("--json", type=Path, help="write the figures as a flat object")
    given = parser.parse_args()
    base = yaml.safe_load((ROOT / given.config).read_text())
    step("prepare", given.config)
    changes = ["device=cpu", *FOUR_PATCHES, f"train.iterations={given.iterations}"]
    rows = {}
    for name in given.only:
        written = [partly_labelled(one, name, given.runs) for one in base["data"]["train"]]
        volumes, counts = zip(*written, strict=True)
        found = [
            trained_and_scored(given.config, name, seed, list(volumes), given.runs, changes)
            for seed in given.seeds
        ]
        rows[name] = {key: float(np.mean([one[key] for one in found])) for key in found[0]}
        rows[name]["synapses"] = float(sum(counts))
    print(f"\npython {shlex.join(sys.argv)}")
    versions = ", ".join(f"{name} {version(name)}" for name in ("synpol", "torch"))
    print(f"{processor()}; Python {platform.python_version()}, {versions}")
    print(f"means of {len(given.seeds)} seeds; held-out volume, IoU 0.5")
    print(
        f"{'learned from':<21} synapses  iterations  thres  polarity F1  precision  recall"
        "  synapse F1"
    )
    for name, row in rows.items():
        print(
            f"{name:<21} {row['synapses']:8.0f} {row['iterations']:11.0f} {row['thres']:6.2f} "
            f"{row['polarity_f1']:12.3f} {row['precision']:10.3f} {row['recall']:7.3f} "
            f"{row['synapse_f1']:11.3f}"
        )
    figures = {f"{key}_{name}": value for name, row in rows.items() for key, value in row.items()}
    for first, other in (
        ("half_unknown", "half_alone"),
        ("half_unknown", "half_background"),
        ("scattered_unknown", "scattered_background"),
    ):
        if first in rows and other in rows:
            difference = rows[first]["polarity_f1"] - rows[other]["polarity_f1"]
            figures[f"{first}_minus_{other}"] = difference
    tell(figures, given.json)


def step(name: str, *arguments: str) -> None:
    """Run a pipeline."""
    command = [f"pipelines/{name}.py", *arguments]
    print(shlex.join(["python", *command]), flush=True)
    subprocess.run([sys.executable, *command], check=True, cwd=ROOT)


def partly_labelled(volume: dict[str, Any], name: str, runs: Path) -> tuple[dict[str, Any], int]:
    """Write the labels of a variant; return the volume for a config, and its number of synapses."""
    split, rest = VARIANTS[name]
    truth = open_image(ROOT / volume["truth"], channels=0)
    labels = np.asarray(truth.array[:])
    known = split(labels, truth.voxel_size_nm)
    labels = np.where(known, labels, 0)
    folder = runs / "data" / name / Path(volume["truth"]).parent.name
    if rest == "alone":
        labels = labels[..., : labels.shape[2] // 2]
    source: dict[str, Any] = {"path": str(written(folder, "truth", labels, truth))}
    if rest == "unknown":
        source["known"] = str(written(folder, "known", known.astype(np.uint8), truth))
    return volume | {"truth": source}, len(np.unique(synapse_of(labels[labels != 0])))


def written(folder: Path, name: str, values: np.ndarray, like: Image) -> Path:
    """Write voxels that begin where those of another image do, unless they are there already."""
    path = folder / name
    if not (ROOT / path).exists():
        unfinished = f"{name}.unfinished"
        shutil.rmtree(ROOT / folder / unfinished, ignore_errors=True)
        image = create_image(
            ROOT / folder,
            unfinished,
            shape=values.shape,
            dtype=values.dtype,
            chunk_shape=[min(64, n) for n in values.shape],
            voxel_size=like.voxel_size,
            offset=like.offset,
            unit=like.unit,
        )
        image.array[:] = values
        (ROOT / folder / unfinished).rename(ROOT / path)
    return path


def trained_and_scored(
    config: str,
    name: str,
    seed: int,
    volumes: list[dict[str, Any]],
    runs: Path,
    changes: list[str],
) -> dict[str, float]:
    """Train, tune, predict and score; finished steps are not repeated."""
    run_dir = runs / f"{name}_{seed}"
    overlay = ROOT / run_dir.with_suffix(".yaml")
    data = yaml.safe_load((ROOT / config).read_text())["data"]
    overlay.write_text(yaml.safe_dump({"data": data | {"train": volumes}}))
    common = [config, str(run_dir.with_suffix(".yaml")), *changes]
    common += [f"run_dir={run_dir}", f"seed={seed}", f"predict.output={run_dir}/heldout"]
    tuned = f"{run_dir}/tuned.yaml"
    step("train", *common)
    step("tune", *common)
    step("predict_blockwise", *common, tuned)
    step("evaluate", *common, tuned)
    scores = json.loads((ROOT / run_dir / "heldout" / "scores.json").read_text())["iou"]["0.5"]
    log = (ROOT / run_dir / "log.csv").read_text().splitlines()
    return {
        "polarity_f1": scores["polarity_correct"]["f1"],
        "precision": scores["polarity_correct"]["precision"],
        "recall": scores["polarity_correct"]["recall"],
        "synapse_f1": scores["synapse"]["f1"],
        "thres": yaml.safe_load((ROOT / tuned).read_text())["decode"]["thres"],
        "iterations": len(log) - 1,
    }


if __name__ == "__main__":
    main()
