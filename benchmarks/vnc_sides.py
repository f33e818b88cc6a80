"""Sides on real ssTEM sections: how often the predicted direction is the one that we noted.

    python benchmarks/vnc_sides.py [--data FOLDER] [--initial CHECKPOINT] [--iterations N]
                                   [--only NAME ...] [--pictures FILE] [--json FILE]

SIDES ASSIGNED BY US: no expert judged them (sides.csv of the data says which of two readers did).
Each synapse mask is split through its centre by the noted direction. Four networks are trained,
each without one quarter of the rows, and without any synapse that reaches into it; the quarter left
out is scored. A synapse is found if a predicted one covers a fifth of its mask. A direction is
right if its scalar product with the noted one is positive. `given` asks for the direction within
the true mask, found or not. `darker` and `lighter` are what brightness alone would say: that half
of the true mask is the pre side.

With `fine-tuned` the networks start from one that learned on synthetic insect tissue
(benchmarks/polyadic.py); that needs the key train.initial. Finished trainings are not repeated.
"""

from __future__ import annotations

import argparse
import csv
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from figures import tell
from PIL import Image
from scipy import ndimage
from scipy.stats import binomtest

from synpol.config import Train
from synpol.images.image import open_image
from synpol.images.writing import create_image
from synpol.report import figures

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "configs/vnc_sides.yaml"
RUNS = Path("runs/vnc_sides")
UNKNOWN = 255  # label of synapses whose sides nobody could tell
COVERED = 0.2  # share of a mask that a predicted synapse covers, if the synapse is found
TESTS = ("direction", "given", "darker", "lighter")


@dataclass(frozen=True)
class Noted:
    """A synapse and what we noted of it.

    Attributes
    ----------
    number : int
        n of its labels 2n-1 (pre) and 2n (post).
    z, y, x : int
        Where its centre lies, voxels.
    way : (2,) float
        Unit vector from pre to post, y and x.
    judged : str
        ``both`` or ``one`` of two readers could tell.
    """

    number: int
    z: int
    y: int
    x: int
    way: np.ndarray
    judged: str


def split(masks: np.ndarray, rows: list[dict[str, str]]) -> np.ndarray:
    """Make labels of sides from masks and noted directions."""
    parts, _ = ndimage.label(masks, np.ones((3, 3, 3)))
    labels = np.where(masks, np.uint8(UNKNOWN), np.uint8(0))
    for n, row in enumerate(rows, start=1):
        if row["judged_by"] == "none":
            continue
        z, y, x = int(row["z"]), float(row["y"]), float(row["x"])
        places = np.argwhere(parts[z])
        nearest = places[np.argmin(((places - (y, x)) ** 2).sum(axis=1))]
        mask = parts == parts[z][tuple(nearest)]
        way = np.array([float(row["pre_to_post_y"]), float(row["pre_to_post_x"])])
        for section in np.flatnonzero(mask.any(axis=(1, 2))):
            place = np.argwhere(mask[section])
            post = (place - place.mean(axis=0)) @ way > 0
            labels[section][tuple(place.T)] = np.where(post, 2 * n, 2 * n - 1)
    return labels


def prepared(data: Path) -> list[Noted]:
    """Write sections with sides, import them and the images, and return what is noted."""
    with open(data / "sides.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    masks = np.stack([np.asarray(Image.open(p)) > 0 for p in sorted((data / "synapses").iterdir())])
    labels = split(masks, rows)
    folder = ROOT / RUNS / "sections"
    folder.mkdir(parents=True, exist_ok=True)
    for z, section in enumerate(labels):
        Image.fromarray(section).save(folder / f"{z:02d}.png")
    config = yaml.safe_load((ROOT / CONFIG).read_text())
    config["prepare"]["imports"][0]["source"] = str(data / "raw")
    path = ROOT / RUNS / "prepare.yaml"
    path.write_text(yaml.safe_dump({"run_dir": str(RUNS), "prepare": config["prepare"]}))
    step("prepare", str(path))
    return [
        Noted(
            n,
            int(row["z"]),
            int(float(row["y"]) / 4),
            int(float(row["x"]) / 4),
            np.array([float(row["pre_to_post_y"]), float(row["pre_to_post_x"])]),
            row["judged_by"],
        )
        for n, row in enumerate(rows, start=1)
        if row["judged_by"] != "none"
    ]


def step(name: str, *arguments: str) -> None:
    command = [f"pipelines/{name}.py", *arguments]
    print(shlex.join(["python", *command]), flush=True)
    subprocess.run([sys.executable, *command], check=True, cwd=ROOT)


def training_volumes(quarter: int, size: int) -> list[dict[str, object]]:
    """Write the labels of the rows above and below a quarter; name the volumes to train on."""
    sides = open_image(ROOT / RUNS / "sides")
    labels = np.asarray(sides.array[:])
    inside = labels[:, quarter * size : (quarter + 1) * size]
    touched = np.unique((inside[(inside > 0) & (inside != UNKNOWN)].astype(int) + 1) // 2)
    numbers = (labels.astype(int) + 1) // 2
    labels[np.isin(numbers, touched) & (labels != UNKNOWN)] = UNKNOWN
    volumes: list[dict[str, object]] = []
    for begin, end in ((0, quarter * size), ((quarter + 1) * size, 4 * size)):
        if begin == end:
            continue
        part = labels[:, begin:end]
        z, y, x = sides.voxel_size
        name = f"without_{quarter}_from_{begin}"
        image = create_image(
            ROOT / RUNS / "labels",
            name,
            shape=part.shape,
            dtype=np.uint64,
            voxel_size=(z, y, x),
            offset=(0, begin * y, 0),
            unit="angstrom",
            chunk_shape=part.shape,
            overwrite=True,
        )
        image.array[:] = part
        truth = {"path": str(RUNS / "labels" / name), "unknown": [UNKNOWN]}
        volumes.append({"raw": str(RUNS / "raw"), "truth": truth, "labels": "polarity"})
    return volumes


def predicted(name: str, quarter: int, size: int, changes: list[str]) -> Path:
    """Train without a quarter and predict; return the folder of the prediction."""
    run_dir = RUNS / name / f"without_{quarter}"
    overlay = ROOT / RUNS / name / f"without_{quarter}.yaml"
    overlay.parent.mkdir(parents=True, exist_ok=True)
    data = {"train": training_volumes(quarter, size)}
    overlay.write_text(yaml.safe_dump({"run_dir": str(run_dir), "data": data}))
    configs = [CONFIG, str(overlay), *changes, f"predict.output={run_dir / 'predicted'}"]
    step("train", *configs)
    step("predict_blockwise", *configs)
    return ROOT / run_dir / "predicted"


def judged(
    noted: Noted, labels: np.ndarray, raw: np.ndarray, polarity: np.ndarray, instances: np.ndarray
) -> dict[str, bool | None]:
    """Tell for one synapse whether it is found, and which ways of telling its sides are right."""
    pre, post = labels == 2 * noted.number - 1, labels == 2 * noted.number
    mask = pre | post
    z = noted.z
    found, right = None, None
    here = (instances[mask].astype(np.int64) + 1) // 2
    counts = np.bincount(here[here > 0]) if (here > 0).any() else np.zeros(1, np.int64)
    best = int(counts.argmax())
    if best and counts[best] >= COVERED * mask.sum():
        found = best
        sides = [instances == 2 * best - 1, instances == 2 * best]
        if all(side[z].any() for side in sides):
            sides = [side[z : z + 1] for side in sides]
        ends = [np.argwhere(side)[:, 1:].mean(axis=0) for side in sides]
        right = bool((ends[1] - ends[0]) @ noted.way > 0)
    places = np.argwhere(mask[z])
    ends = []
    for channel in (0, 1):
        weight = polarity[channel, z][mask[z]].astype(float) + 1e-6
        ends.append((places * weight[:, None]).sum(axis=0) / weight.sum())
    return {
        "found": found is not None,
        "direction": right,
        "given": bool((ends[1] - ends[0]) @ noted.way > 0),
        "darker": bool(raw[pre].mean() < raw[post].mean()),
        "lighter": bool(raw[pre].mean() > raw[post].mean()),
    }


def picture(
    noted: Noted, told: dict[str, bool | None], raw: np.ndarray, polarity: np.ndarray
) -> list[tuple[str, np.ndarray]]:
    """Draw a synapse: the image, and the prediction on it."""
    half = 20
    y, x = (
        int(np.clip(c, half, n - half))
        for c, n in zip((noted.y, noted.x), raw.shape[1:], strict=True)
    )
    part = (slice(y - half, y + half), slice(x - half, x + half))
    section = raw[noted.z][part].repeat(4, 0).repeat(4, 1)
    marks = polarity[:, noted.z][:, part[0], part[1]].repeat(4, 1).repeat(4, 2)
    word = {True: "right", False: "wrong", None: "not found"}[told["direction"]]
    way = f"noted: pre to post y {noted.way[0]:+.1f}, x {noted.way[1]:+.1f}"
    title = f"synapse {noted.number}, {noted.judged}: {word}"
    return [(way, figures.grey(section)), (title, figures.with_polarity(section, marks))]


def share(values: list[bool]) -> str:
    """Tell a share with its Wilson interval."""
    if not values:
        return "none"
    low, high = binomtest(sum(values), len(values)).proportion_ci(method="wilson")
    return f"{sum(values)}/{len(values)} = {np.mean(values):.2f} ({low:.2f}..{high:.2f})"


def variant(
    name: str, noted: list[Noted], changes: list[str], pictures: Path | None
) -> dict[str, float]:
    """Train and score the four networks of one kind; print the table."""
    raw, labels = (np.asarray(open_image(ROOT / RUNS / n).array[:]) for n in ("raw", "sides"))
    size = raw.shape[1] // 4
    told: list[tuple[Noted, dict[str, bool | None]]] = []
    drawn = []
    for quarter in range(4):
        folder = predicted(name, quarter, size, changes)
        polarity, instances = (
            np.asarray(open_image(folder / n).array[:]) for n in ("polarity", "instances")
        )
        for one in noted:
            if one.y // size == quarter:
                told.append((one, judged(one, labels, raw, polarity, instances)))
                drawn += picture(*told[-1], raw, polarity)
    found: dict[str, float] = {}
    print(f"\n{name}: sides assigned by us; share that is right (95 %, Wilson)")
    for readers in ("both", "one"):
        rows = [answers for one, answers in told if one.judged == readers]
        seen = [row for row in rows if row["found"]]
        key = f"{name}_{readers}".replace("-", "_")
        found[f"{key}_noted"], found[f"{key}_found"] = len(rows), len(seen)
        print(f"  {readers}: {len(seen)} of {len(rows)} found")
        for test in TESTS:
            for which, some in (("found", seen), ("all", rows)):
                values = [bool(row[test]) for row in some if row[test] is not None]
                if test == "direction" and which == "all":
                    continue
                print(f"    {test:<10} of {which:<5} {share(values)}")
                found[f"{key}_{test}_{which}"] = float(np.mean(values)) if values else np.nan
    if pictures is not None:
        path = pictures.with_name(f"{pictures.stem}_{name}{pictures.suffix}")
        figures.panel(drawn).savefig(path, dpi=50)
        print(f"  pictures: {path}")
    return found


def newest(folder: Path) -> Path | None:
    checkpoints = sorted((ROOT / folder / "checkpoints").glob("*.pt"))
    return checkpoints[-1] if checkpoints else None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "vnc")
    parser.add_argument("--initial", type=Path, help="checkpoint to start from when fine-tuning")
    parser.add_argument("--iterations", type=int, help="of each training; default: the config's")
    parser.add_argument(
        "--only", nargs="+", choices=["scratch", "fine-tuned"], default=["scratch", "fine-tuned"]
    )
    parser.add_argument("--pictures", type=Path, help="where to draw every synapse")
    parser.add_argument("--json", type=Path, help="write the figures as a flat object")
    given = parser.parse_args()
    if not (given.data / "sides.csv").is_file():
        sys.exit(f"there is no {given.data / 'sides.csv'}; name the folder of the data: --data")
    changes = [] if given.iterations is None else [f"train.iterations={given.iterations}"]
    noted = prepared(given.data)
    starts: dict[str, list[str]] = {"scratch": []}
    initial = given.initial or newest(Path("runs/polyadic/links"))
    if "initial" not in Train.model_fields:
        print("fine-tuned is left out: this version has no key train.initial")
    elif initial is None:
        print("fine-tuned is left out: no checkpoint; run benchmarks/polyadic.py, or --initial")
    else:
        starts["fine-tuned"] = [f"train.initial={initial}"]
    figures_found: dict[str, float] = {}
    for name in given.only:
        if name in starts:
            figures_found |= variant(name, noted, [*changes, *starts[name]], given.pictures)
    tell(figures_found, given.json)


if __name__ == "__main__":
    main()
