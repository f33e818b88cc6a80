"""Time how fast a network answers where one looks, as `pipelines/view.py --live` does.

python benchmarks/live.py CONFIG.yaml ...

Prints the seconds until the first chunk in the middle of the image is there, loading included, then
chunks per second in a plane through it, in the order in which a browser would ask: six at a time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import deque
from concurrent.futures import Future
from pathlib import Path

import numpy as np

from synpol.command import run_command
from synpol.config import Config


def main(config: Config, given: argparse.Namespace) -> None:
    began = time.perf_counter()
    from synpol.model.trained import find_checkpoint
    from synpol.scene.live import LiveScene

    with tempfile.TemporaryDirectory() as folder:
        scene = LiveScene(config, find_checkpoint(config), Path(folder))
        middle, y, x = (n // 2 for n in scene.blocks.grid)
        opened = time.perf_counter()
        scene.queue.ask((middle, y, x)).result()
        first = time.perf_counter()
        asked: deque[Future[np.ndarray]] = deque()
        plane = [(middle, a, b) for a in range(2 * y) for b in range(2 * x)]
        for index in plane:
            asked.append(scene.queue.ask(index))
            if len(asked) == 6:
                asked.popleft().result()
        for future in asked:
            future.result()
        seconds = time.perf_counter() - first
        scene.close()
    print(
        f"chunks of {scene.blocks.block}: opened in {opened - began:.1f} s, the first one "
        f"{first - opened:.2f} s later, then {len(plane)} in {seconds:.1f} s "
        f"({len(plane) / seconds:.2f} a second)"
    )


if __name__ == "__main__":
    run_command(main, __doc__, timed=False)
