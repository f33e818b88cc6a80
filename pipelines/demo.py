"""The whole job on synthetic data: make it, train, choose the threshold, predict, decode, score.

Each step is a command of its own, printed as it is run; each resumes, so the demo does too.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path

from synpol.command import run_command
from synpol.config import Config

HERE = Path(__file__).parent


def main(config: Config, given: argparse.Namespace) -> None:
    started = time.monotonic()
    tuned = f"{config.run_dir}/tuned.yaml"
    steps = [
        ["prepare.py"],
        ["train.py"],
        ["tune.py"],
        ["predict_blockwise.py", tuned],
        ["evaluate.py", tuned],
        ["table.py", tuned, "--csv", f"{config.predict.output}/synapses.csv"],
        ["connect.py", tuned],
        ["view.py", tuned, "--prepare"],
    ]
    for name, *more in steps:
        command = [sys.executable, str(HERE / name), *given.config, *more]
        shown = ["python", f"pipelines/{name}", *given.config, *more]
        print(f"\n[{time.monotonic() - started:4.0f} s] {shlex.join(shown)}", flush=True)
        code = subprocess.run(command, check=False).returncode
        if code:
            sys.exit(code)
    report = Path(config.need("predict.output")) / "report.html"
    scene = shlex.join(["python", "pipelines/view.py", *given.config, tuned])
    print(f"\n[{time.monotonic() - started:4.0f} s] done; open {report}; the scene: {scene}")


if __name__ == "__main__":
    run_command(main, __doc__)
