"""Look, judge, learn again: how many verdicts make a network better on tissue that it never saw.

    python benchmarks/review_loop.py [--config configs/demo.yaml] [--network runs/demo]
        [--verdicts 40 80 160] [--orders useful sample score] [--seeds 1] [--difficulty 1]
        [--iterations 100] [--batch 2] [--runs FOLDER] [--json FILE] [--plot FILE]

The network of the demo (run pipelines/demo.py first) finds synapses in synthetic tissue of another
difficulty, with a threshold of 0.3, so that weak ones are seen too. A simulated reviewer judges
them from the truth; one verdict in twenty is wrong. They are shown in an order of the review page:
most useful next, random sample, or by score, lowest first. `pipelines/review.py --labels` makes
training data of the verdicts, and the network learns again from them and the volumes of the demo
(half of the patches each). It is scored on a third volume, of the same tissue as the judged one.

For comparison: the network as it was (`before`), one that learned as long from the volumes of the
demo alone (`no_verdicts`), and one that learned from the whole truth instead of verdicts (`truth`).

F1 is that of synapses whose sides are right, at IoU 0.5, with the threshold of the demo;
`best_f1` is the F1 with whichever threshold is best on that volume. Each seed has another judged
volume, other mistakes and other patches. What is there already is not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from figures import tell
from polyadic import processor

from synpol.config import load_config
from synpol.files import write_json
from synpol.images.image import open_image
from synpol.polarity import UNKNOWN
from synpol.review.desk import FOUND, Desk
from synpol.review.opening import open_desk
from synpol.review.store import VerdictStore
from synpol.review.verdicts import Verdict

ROOT = Path(__file__).resolve().parents[1]
#: of so many verdicts, one is wrong
ONE_WRONG_OF = 20
#: verdicts between two looks at the order
AT_ONCE = 10
#: threshold with which synapses are found that are judged
SEEN_FROM = 0.3
SHAPE = {"judged": [40, 640, 640], "heldout": [40, 480, 480]}
KINDS = ("right", "flipped", "not_synapse", "outline")


class Loop:
    """What all trainings of this benchmark share.

    Parameters
    ----------
    given : argparse.Namespace
        Options of the command.
    """

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.runs = given, given.runs.resolve()
        self.runs.mkdir(parents=True, exist_ok=True)
        self.base = yaml.safe_load((ROOT / given.config).read_text())
        checkpoints = sorted((ROOT / given.network / "checkpoints").glob("*.pt"))
        self.network = str(checkpoints[-1])
        tuned = yaml.safe_load((ROOT / given.network / "tuned.yaml").read_text())
        self.thres = float(tuned["decode"]["thres"])

    def step(self, name: str, overlay: dict[str, Any], run_dir: Path, *more: str) -> None:
        """Run a pipeline with the config and an overlay."""
        run_dir.mkdir(parents=True, exist_ok=True)
        path = run_dir / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"run_dir": str(run_dir), "device": "cpu", **overlay}))
        command = [f"pipelines/{name}.py", self.given.config, str(path), *more]
        print(shlex.join(["python", *command]), flush=True)
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, *command], check=True, cwd=ROOT, env=environment)

    def prepare(self, seed: int) -> Path:
        """Make the volume that is judged and the one that is held out; find synapses in the first.

        Returns
        -------
        Path
            Folder of the judged volume and of its result.
        """
        judged = self.runs / f"judged_{seed}"
        volumes = [(judged, 100 + seed, "judged", 0), (self.runs / "heldout", 99, "heldout", 40)]
        synthetic = [
            {
                "output": str(folder),
                "shape": SHAPE[kind],
                "seed": number,
                "difficulty": self.given.difficulty,
                "min_side_voxels": least,
            }
            for folder, number, kind, least in volumes
        ]
        if not (judged / "synapses.parquet").is_file():
            self.step("prepare", {"prepare": {"synthetic": synthetic}}, judged / "run")
            self.step("predict_blockwise", self.result(judged), judged / "run")
        return judged

    def result(self, judged: Path, verdicts: Path | None = None) -> dict[str, Any]:
        """Return the overlay of the result that is judged."""
        place = {"raw": f"{judged}/raw", "output": str(judged), "checkpoint": self.network}
        review = {"verdicts": None if verdicts is None else str(verdicts), "twice": 0.0}
        decode = {"thres": SEEN_FROM, "block_shape": [40, 320, 320]}
        return {"predict": place, "decode": decode, "review": review}

    def learn(self, name: str, seed: int, volumes: list[dict[str, Any]]) -> dict[str, float]:
        """Learn again, beginning with the network; return the scores on the held-out volume."""
        run_dir = self.runs / f"{name}_{seed}"
        if not (run_dir / "tune.json").is_file():
            data = {"train": volumes, "validation": self.heldout()}
            overlay = {
                "seed": seed,
                "data": data,
                "reject_sampling": {"size_thres": 400},
                "loss": {"deep_supervision": 0},
                "model": {"residual": True},
                "train": {
                    "initial": self.network,
                    "iterations": self.given.iterations,
                    "batch_size": self.given.batch,
                    "lr": self.given.lr,
                    "warmup": 0,
                    "ema": 0.95,
                    "ema_warmup": 20,
                    "num_workers": 0,
                    "checkpoint_every": 1000,
                    "image_every": 1000,
                },
            }
            self.step("train", overlay, run_dir)
            self.step("tune", overlay, run_dir)
        return self.scores(run_dir)

    def before(self) -> dict[str, float]:
        """Return the scores of the network as it was."""
        run_dir = self.runs / "before"
        if not (run_dir / "tune.json").is_file():
            data = self.base["data"] | {"validation": self.heldout()}
            self.step("tune", {"data": data, "predict": {"checkpoint": self.network}}, run_dir)
        return self.scores(run_dir)

    def heldout(self) -> dict[str, str]:
        """Return the volume on which all networks are scored."""
        folder = self.runs / "heldout"
        return {"raw": f"{folder}/raw", "truth": f"{folder}/truth", "labels": "polarity"}

    def scores(self, run_dir: Path) -> dict[str, float]:
        """Return what the threshold of the network gives, and what the best one would give."""
        rows = json.loads((run_dir / "tune.json").read_text())
        own = min(rows, key=lambda row: abs(row["thres"] - self.thres))
        best = max(rows, key=lambda row: float(row["f1"]))
        kept = {key: float(own[key]) for key in ("f1", "precision", "recall")}
        return kept | {"best_f1": float(best["f1"]), "best_thres": float(best["thres"])}

    def old_volumes(self, weight: float) -> list[dict[str, Any]]:
        """Return the volumes that the network has learned from, which share a weight."""
        volumes = self.base["data"]["train"]
        return [volume | {"weight": weight / len(volumes)} for volume in volumes]

    def judged_volume(self, judged: Path, order: str, count: int, seed: int) -> dict[str, Any]:
        """Let the simulated reviewer judge; return the training data of the verdicts."""
        folder = self.runs / f"verdicts_{order}_{count}_{seed}"
        store, labels = folder / "verdicts.db", folder / "labels"
        overlay = self.result(judged, store)
        if not (folder / "done").is_file():
            folder.mkdir(exist_ok=True)
            (folder / "config.yaml").write_text(yaml.safe_dump(overlay))
            config = load_config([str(ROOT / self.given.config), str(folder / "config.yaml")])
            instances = open_image(judged / "instances", channels=0)
            said = answers(np.asarray(instances.array[:]), judged)
            store.unlink(missing_ok=True)
            with VerdictStore(store) as opened:
                desk = open_desk(config, opened, instances)
                tally = judge(desk, order, count, seed, said)
            print(f"{order} {count}: {tally}", flush=True)
            self.step("review", overlay, folder / "run", "--labels", str(labels))
            (folder / "done").write_text(json.dumps(tally))
        truth = {"path": str(labels / "truth"), "unknown": [UNKNOWN]}
        return {"raw": f"{judged}/raw", "truth": truth, "labels": "polarity", "weight": 1.0}


def answers(instances: np.ndarray, judged: Path) -> dict[int, str]:
    """Return what somebody says about each synapse who knows the truth."""
    truth = np.asarray(open_image(judged / "truth", channels=0).array[:])
    sizes = np.bincount(((truth[truth > 0] + 1) // 2).astype(np.int64))
    own = instances > 0
    pairs, counts = np.unique(
        np.stack([instances[own], truth[own]], 1).astype(np.int64), axis=0, return_counts=True
    )
    said = {}
    for number in np.unique((pairs[:, 0] + 1) // 2).tolist():
        mine = (pairs[:, 0] + 1) // 2 == number
        size = int(counts[mine].sum())
        shared: dict[int, tuple[int, int]] = {}
        for (label, true), count in zip(pairs[mine].tolist(), counts[mine].tolist(), strict=True):
            if true:
                both, same = shared.get((true + 1) // 2, (0, 0))
                shared[(true + 1) // 2] = both + count, same + count * (label % 2 == true % 2)
        synapse = max(shared, key=lambda one: shared[one][0], default=0)
        both, same = shared.get(synapse, (0, 0))
        overlap = both / (size + int(sizes[synapse]) - both) if synapse else 0.0
        if both < size / 4:
            said[number] = "not_synapse"
        elif 2 * same < both:
            said[number] = "flipped"
        else:
            said[number] = "right" if overlap >= 0.5 else "outline"
    return said


def judge(desk: Desk, order: str, count: int, seed: int, said: dict[int, str]) -> dict[str, int]:
    """Give verdicts as the page does; return how many of each kind, and how many are wrong."""
    table, tally = desk.tables[FOUND], dict.fromkeys((*KINDS, "wrong"), 0)
    given, rng = 0, np.random.default_rng([seed, count])
    while given < count:
        items = desk.next_items(order, "simulated", min(AT_ONCE, count - given), {})
        if not items:
            break
        verdicts = []
        for item in items:
            kind = said[int(table.number[item.row])]
            given += 1
            if given % ONE_WRONG_OF == ONE_WRONG_OF // 2:
                kind = str(rng.choice([other for other in KINDS if other != kind]))
                tally["wrong"] += 1
            tally[kind] += 1
            about = desk.describe(item)
            verdicts.append(
                Verdict(
                    verdict=kind,
                    reviewer="simulated",
                    origin=order,
                    **{k: about[k] for k in ("pre", "post", "pre_voxels", "post_voxels", "score")},
                    **{k: about[k] for k in ("synapse_id", "table_hash")},
                )
            )
        desk.store.add(verdicts)
    return tally


def draw(
    rows: dict[tuple[str, int], dict[str, float]],
    orders: Sequence[str],
    counts: Sequence[int],
    path: Path,
) -> None:
    """Draw F1 over the number of verdicts: a line through the means, a small dot for each seed."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    def of(name: str) -> list[float]:
        return [row["f1"] for (other, _), row in rows.items() if other == name]

    names = {"useful": "most useful next", "sample": "random", "score": "by score, lowest first"}
    figure, axes = plt.subplots(figsize=(5.6, 3.8), layout="constrained")
    for number, order in enumerate(orders):
        there = [n for n in counts if of(f"{order}_{n}")]
        means = [float(np.mean(of(f"{order}_{n}"))) for n in there]
        begin = float(np.mean(of("before")))
        axes.plot([0, *there], [begin, *means], "o-", color=f"C{number}", label=names[order])
        for n in there:
            each = of(f"{order}_{n}")
            beside = [n + 2 * (number - 1)] * len(each)
            axes.plot(beside, each, ".", color=f"C{number}", alpha=0.5, ms=5)
    for key, text in (("no_verdicts", "as long, without verdicts"), ("truth", "from the truth")):
        if each := of(key):
            mean = float(np.mean(each))
            axes.axhline(mean, color="0.5", ls=":" if key[0] == "n" else "--")
            axes.annotate(text, (0, mean), color="0.4", va="bottom", size=8)
    axes.set(xlabel="verdicts", ylabel="F1 on the held-out volume")
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.62, 0.93))
    figure.savefig(path, dpi=90)
    plt.close(figure)


def collect(rows: dict[tuple[str, int], dict[str, float]]) -> dict[str, float]:
    """Return means over the seeds, by name."""
    figures = {}
    for name in dict.fromkeys(name for name, _ in rows):
        own = [row for (other, _), row in rows.items() if other == name]
        for key in own[0]:
            figures[f"{key}_{name}"] = float(np.mean([row[key] for row in own]))
        figures[f"seeds_{name}"] = float(len(own))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/demo.yaml")
    parser.add_argument("--network", type=Path, default=Path("runs/demo"), help="its run_dir")
    parser.add_argument("--verdicts", nargs="+", type=int, default=[40, 80, 160])
    parser.add_argument("--orders", nargs="+", default=["useful", "sample", "score"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--difficulty", type=float, default=1.0)
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--batch", type=int, default=2, help="patches of an iteration")
    parser.add_argument("--lr", type=float, default=2.0e-3)
    parser.add_argument("--runs", type=Path, default=Path("runs/review_loop"))
    parser.add_argument("--json", type=Path, help="write the figures as a flat object")
    parser.add_argument("--plot", type=Path, help="draw F1 over the number of verdicts")
    given = parser.parse_args()
    loop, rows = Loop(given), {}
    figures: dict[str, float] = {}

    def told(name: str, seed: int, row: dict[str, float]) -> None:
        rows[name, seed] = row
        print(name, seed, {key: round(value, 3) for key, value in row.items()}, flush=True)
        figures.update(collect(rows))
        if given.json is not None:  # a long run is read before its end
            write_json(given.json, figures)

    for seed in given.seeds:
        judged = loop.prepare(seed)
        told("before", seed, loop.before())
        old = loop.old_volumes(1.0)
        volume = {"raw": f"{judged}/raw", "truth": f"{judged}/truth", "labels": "polarity"}
        told("truth", seed, loop.learn("truth", seed, [*old, volume | {"weight": 1.0}]))
        told("no_verdicts", seed, loop.learn("no_verdicts", seed, old))
        for count in sorted(given.verdicts, reverse=True):
            for order in given.orders:
                volume = loop.judged_volume(judged, order, count, seed)
                name = f"{order}_{count}"
                told(name, seed, loop.learn(name, seed, [*old, volume]))
    print(f"\npython {shlex.join(sys.argv)}")
    versions = ", ".join(f"{name} {version(name)}" for name in ("synpol", "torch"))
    print(f"{processor()}; Python {platform.python_version()}, {versions}")
    tell(figures, given.json)
    if given.plot is not None:
        draw(rows, given.orders, given.verdicts, given.plot)


if __name__ == "__main__":
    main()
