"""Measure an older build of synpol beside this one, in turns, on the same input.

The benchmarks of decoding take ``--against REV``: they unpack that commit into a temporary folder
and start the same commands with each of the two trees on PYTHONPATH. The machine may have other
work, so each turn runs both one after the other, and what counts is the ratio within a turn, of
seconds and of processor seconds.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def build_of(revision: str) -> Iterator[Path]:
    """Unpack a commit into a temporary folder."""
    with tempfile.TemporaryDirectory() as place:
        archive = subprocess.run(
            ["git", "archive", revision], cwd=ROOT, check=True, capture_output=True
        )
        subprocess.run(["tar", "-x", "-C", place], input=archive.stdout, check=True)
        yield Path(place)


@dataclass(frozen=True)
class Run:
    """What a process and its children took.

    Attributes
    ----------
    seconds, processor_seconds : float
        Time on the clock, and on all processors.
    peak : int
        Bytes of the largest resident set of any of them.
    told : str
        What it printed.
    """

    seconds: float
    processor_seconds: float
    peak: int
    told: str


def run_with(build: Path, command: Sequence[str | Path], cwd: Path | None = None) -> Run:
    """Run a command with a build of synpol; python puts the folder of ``-c`` code first."""
    environment = os.environ | {"PYTHONPATH": str(build)}
    with tempfile.TemporaryFile("w+") as told, tempfile.TemporaryFile("w+") as failure:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=told, stderr=failure, env=environment, cwd=cwd or build
        )
        highest: dict[int, int] = {}
        ended = False
        while not ended:
            highest |= peaks(process.pid)
            time.sleep(min(0.5, max(0.02, (time.perf_counter() - started) / 100)))
            pid, status, used = os.wait4(process.pid, os.WNOHANG)
            ended = pid != 0
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        told.seek(0)
        failure.seek(0)
        if process.returncode:
            raise RuntimeError(f"{command} failed:\n{failure.read()[-3000:]}")
        peak = max(highest.values(), default=0)
        return Run(seconds, used.ru_utime + used.ru_stime, peak, told.read())


def peaks(root: int) -> dict[int, int]:
    """Highest resident set so far, in bytes, of a process and its children."""
    found = {}
    for pid in (root, *children(root)):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        for line in status.splitlines():
            if line.startswith("VmHWM"):
                found[pid] = int(line.split()[1]) * 1024
    return found


def children(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        mine = [int(c) for t in tasks for c in (t / "children").read_text().split()]
    except OSError:
        return []
    return mine + [c for m in mine for c in children(m)]


def in_turns(
    builds: dict[str, Path], repeats: int, run: Callable[[Path], Run]
) -> dict[str, list[Run]]:
    """Run something with each build in turn; the order changes from turn to turn."""
    runs: dict[str, list[Run]] = {name: [] for name in builds}
    for turn in range(repeats):
        names = list(builds) if turn % 2 else list(builds)[::-1]
        for name in names:
            runs[name].append(run(builds[name]))
    return runs


def compared(what: str, old: Sequence[Run], new: Sequence[Run]) -> dict[str, float]:
    """Print how often the new build is as fast as the old one; returns the figures."""
    clock = [o.seconds / n.seconds for o, n in zip(old, new, strict=True)]
    processor = [o.processor_seconds / n.processor_seconds for o, n in zip(old, new, strict=True)]
    print(
        f"{what:<24} {_median(old, 'seconds'):7.2f} {_median(new, 'seconds'):7.2f} "
        f"{statistics.median(clock):6.2f} {min(clock):6.2f}   "
        f"{_median(old, 'processor_seconds'):7.2f} {_median(new, 'processor_seconds'):7.2f} "
        f"{statistics.median(processor):6.2f} {min(processor):6.2f}   "
        f"{max(r.peak for r in old) / 1e6:5.0f} {max(r.peak for r in new) / 1e6:5.0f}",
        flush=True,
    )
    name = "_".join(what.replace(",", "").split())
    return {
        f"{name}_times_as_fast": statistics.median(clock),
        f"{name}_times_as_fast_least": min(clock),
        f"{name}_processor_times_as_fast": statistics.median(processor),
        f"{name}_processor_times_as_fast_least": min(processor),
    }


def head(old: str) -> None:
    """Print what the columns of `compared` are."""
    print(f"\n{old} (old) against this tree (new); medians, and median and least ratio of a turn")
    print(
        f"{'':<24} {'seconds':>15} {'ratio':>6} {'least':>6}   "
        f"{'processor s':>15} {'ratio':>6} {'least':>6}   {'peak MB':>11}"
    )


def _median(runs: Sequence[Run], what: str) -> float:
    return statistics.median(getattr(run, what) for run in runs)
