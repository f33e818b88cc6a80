"""Speed of a training step on the CPU, an older build beside this one.

    python benchmarks/step.py --against REV [--repeats 6] [--json FILE]

A step is all that an iteration does with a batch that is ready: forward, loss, backward, optimizer
and averaged weights. Both builds train with one thread, each in a process of its own, and take
turns step by step on the same batch of noise. What counts is the ratio of processor seconds, user
and system, within a turn: its median and its least. Faults are pages that the kernel had to hand
out in a step; the peak is the largest resident set of the process.

The default network gets one patch of the default size where the config has four; the demo's gets
the demo's batch.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from against import ROOT, build_of
from demo import features, processor
from figures import tell

NETWORKS = ("default", "demo")
PRECISIONS = ("float32", "bfloat16")


def configured(network: str, precision: str, folder: Path) -> Path:
    """The demo's network with four patches, or what the defaults are, on the demo's data."""
    content = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text())
    content["train"]["batch_size"] = 4
    content["loss"].pop("deep_supervision", None)  # older builds do not know these
    content["model"].pop("residual", None)
    if network == "default":
        del content["model"]
        content["train"] = {"batch_size": 1}
    content["train"]["precision"] = precision
    content |= {"run_dir": str(folder), "device": "cpu"}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def noise(batch_size: int, patch: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """A batch of noise: what the network sees does not decide how long it takes."""
    rng = np.random.default_rng(0)
    target = (rng.random((batch_size, 3, *patch)) < 0.02).astype(np.float32)
    target[:, 2] = target[:, :2].max(1)
    raw = rng.random((batch_size, 1, *patch), dtype=np.float32)
    return {"raw": raw, "target": target, "weights": np.ones_like(target)}


def train(config: Path) -> None:
    """Do a step for every line of the input, and print what it took."""
    from synpol.config import load_config
    from synpol.training.processes import Processes
    from synpol.training.state import TrainingState

    torch.set_num_threads(1)
    loaded = load_config([str(config)])
    state = TrainingState(loaded, [], Processes(torch.device("cpu")))
    batch = noise(loaded.train.batch_size, loaded.train.patch)
    for _ in sys.stdin:
        before = resource.getrusage(resource.RUSAGE_SELF)
        loss = state.learn(batch).terms["loss"]
        after = resource.getrusage(resource.RUSAGE_SELF)
        used = [u.ru_utime + u.ru_stime for u in (before, after)]
        step = Step(
            used[1] - used[0],
            after.ru_minflt - before.ru_minflt,
            after.ru_maxrss * 1024,
            loss,
        )
        print(json.dumps(vars(step)), flush=True)


@dataclass(frozen=True)
class Step:
    """What a step took.

    Attributes
    ----------
    seconds : float
        Processor seconds.
    faults : int
        Pages that the kernel handed out.
    peak : int
        Bytes of the largest resident set so far.
    loss : float
        Loss before the step.
    """

    seconds: float
    faults: int
    peak: int
    loss: float


def trainer(build: Path, config: Path) -> tuple[subprocess.Popen[str], Callable[[], Step]]:
    """Start a process that trains with a build, a step whenever it is asked."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--train", str(config)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(build), "OMP_NUM_THREADS": "1"},
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    asked, told = process.stdin, process.stdout

    def step() -> Step:
        asked.write("\n")
        asked.flush()
        answer: dict[str, Any] = json.loads(told.readline())
        return Step(**answer)

    return process, step


def compare(
    network: str, precision: str, builds: dict[str, Path], repeats: int
) -> dict[str, float]:
    """Let two builds train in turns, after two steps that do not count; print and return."""
    processes, steps = {}, {}
    with tempfile.TemporaryDirectory() as place:
        for name, build in builds.items():
            folder = Path(place) / name
            folder.mkdir()
            processes[name], steps[name] = trainer(build, configured(network, precision, folder))
        taken: dict[str, list[Step]] = {name: [] for name in builds}
        for turn in range(repeats + 2):
            for name in list(builds) if turn % 2 else list(builds)[::-1]:
                taken[name].append(steps[name]())
        for process in processes.values():
            process.communicate()
    old, new = (taken[name][2:] for name in ("old", "new"))
    ratios = [o.seconds / n.seconds for o, n in zip(old, new, strict=True)]
    print(f"{network:<8} {precision:<9}", end="")
    for steps_of in (old, new):
        seconds = statistics.median(s.seconds for s in steps_of)
        faults = statistics.median(s.faults for s in steps_of)
        print(f" {seconds:8.2f} {faults:9.0f} {steps_of[-1].peak / 1e6:6.0f}", end="")
    print(f" {statistics.median(ratios):7.2f} {min(ratios):6.2f}", flush=True)
    key = f"{network}_{precision}"
    return {
        f"{key}_times_as_fast": statistics.median(ratios),
        f"{key}_times_as_fast_least": min(ratios),
        f"{key}_peak_over_old": new[-1].peak / old[-1].peak,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", metavar="REV", help="commit of the older build")
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="write the figures as a flat object")
    given = parser.parse_args()
    if given.train is not None:
        train(given.train)
        return
    if given.against is None:
        parser.error("--against is missing: the commit to compare with")
    print(f"{processor()} ({features()}); Python {platform.python_version()}, ", end="")
    print(f"torch {version('torch')}; one thread")
    print(f"{given.against} (old) against this tree (new); a step: processor s, faults, peak MB")
    print(f"{'':<18} {'old':>25} {'new':>25} {'ratio':>7} {'least':>6}", flush=True)
    figures: dict[str, float] = {}
    with build_of(given.against) as older:
        for network in given.networks:
            for precision in given.precisions:
                builds = {"old": older, "new": ROOT}
                figures |= compare(network, precision, builds, given.repeats)
    tell(figures, given.json)


if __name__ == "__main__":
    main()
