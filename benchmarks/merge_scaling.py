"""How the merge grows with the number of blocks, up to a million of them.

    python benchmarks/merge_scaling.py [--sides N ...] [--against REV] [--plot FILE] [--json FILE]

A volume of n x n x n blocks is simulated without voxels: what the blocks would hand to the merge is
drawn, block by block, from their index (drawn_blocks.py). Everything above is the real thing: the
stages ``merge 1`` .. ``merge k``, ``number`` and ``resolve k`` .. ``resolve 1``, run by daisy's
workers, with their records on disk. The table that would follow is not written.

Printed for every size: seconds and peak memory of any process; for the largest, level by level,
the graph and the records of one job. The exponent is the slope of log(seconds) over log(blocks): 1
is flat cost a block. The memory of the top job is that of a fresh process which does it alone.

With --against REV it measures that commit and this tree instead, in turns: seconds of the whole,
with the drawing, which both have; the processor seconds of the drawing for the lowest merge, and
what is left without them; and the memory of the top job.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import resource
import sys
import tempfile
import time
from dataclasses import fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from against import ROOT, Run, build_of, compared, head, in_turns, run_with
from drawn_blocks import BLOCK, INSIDE, OpenFragments, simulated_node, simulated_rows
from figures import tell

from synpol.blockwise.driver import Driver
from synpol.blockwise.grid import BlockGrid, index_of
from synpol.blockwise.records import Index, record_path
from synpol.blockwise.stage import AnyStage
from synpol.decoding.fragments import KINDS
from synpol.decoding.joining import Member
from synpol.decoding.merge import MergeStage
from synpol.decoding.number import NumberStage, ResolveStage
from synpol.decoding.stages import merge_stages, resolve_stages
from synpol.synapses.statistics import Rows

THRES_SMALL = 128
#: whether this is a build whose lowest groups have 2x2x2 blocks
OLDER = "side" not in {field.name for field in fields(MergeStage)}


def members_of(index: Index, grid: Index, side: int) -> list[Index]:
    """The members of a group, for any build."""
    z, y, x = (range(i * side, min((i + 1) * side, n)) for i, n in zip(index, grid, strict=True))
    return list(itertools.product(z, y, x))


class SimulatedMerge(MergeStage):
    """The lowest merge, over blocks that are drawn instead of read."""

    def group(self, index: Index) -> list[Member]:
        grid, side = self.member_grid, 2 if OLDER else self.side
        started = time.thread_time()
        members = [
            (simulated_node(block, grid), index_of(i % side for i in block))
            for block in members_of(index, grid, side)
        ]
        folder = self.folder.parent / "drawing"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / str(os.getpid())).open("a") as file:
            file.write(f"{time.thread_time() - started}\n")
        return members


class SimulatedNumber(NumberStage):
    """The numbering, over blocks that are drawn instead of read."""

    def rows(self, depth: int, index: Index) -> Rows:
        if depth == 0:
            return simulated_rows(index, self.blocks.grid)
        return super().rows(depth, index)


def stages(work: Path, side: int) -> tuple[list[MergeStage], SimulatedNumber, list[ResolveStage]]:
    shape = index_of(side * b for b in BLOCK)
    blocks = BlockGrid(shape, BLOCK)
    merges = merge_stages(work, work / "dilate", blocks, THRES_SMALL)
    if merges:
        merges[0] = SimulatedMerge(**vars(merges[0]))
    numbers = SimulatedNumber(
        folder=work / "number",
        grid=(side, 1, 1),
        blocks=blocks,
        finished=(work / "dilate", *(merge.folder for merge in merges)),
    )
    given: tuple[Any, ...] = (work, merges) if OLDER else (merges,)
    resolves = resolve_stages(*given)
    return merges, numbers, resolves


def run(work: Path, side: int, workers: int, *, check: bool = True) -> float:
    """Merge, number and resolve; returns seconds."""
    merges, numbers, resolves = stages(work, side)
    started = time.perf_counter()
    with Driver(work, "merge_scaling", workers) as driver:
        every: list[AnyStage] = [*merges, numbers, *resolves]
        for stage in every:
            driver.run(stage)
    seconds = time.perf_counter() - started
    if not check:
        return seconds
    found, expected = numbers.numbering().count, int(apart(f"print(m.expected_synapses({side}))"))
    if found != expected:
        raise RuntimeError(f"{found} synapses came out of the merge, {expected} were drawn")
    return seconds


def expected_synapses(side: int) -> int:
    """Synapses drawn, counted by one plain graph of all contacts."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    grid = (side, side, side)
    every = [OpenFragments.of(index_of(i), grid) for i in np.ndindex(grid)]
    count = np.array([len(f.names) for f in every])
    before = np.cumsum(count) - count
    ends: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for at, index in enumerate(np.ndindex(grid)):
        for axis in range(3):
            if index[axis] + 1 < side:
                other = at + side ** (2 - axis)
                for end, block, face in zip(ends, (at, other), (1, 0), strict=True):
                    mine = every[block].fragment[every[block].face == 2 * axis + face]
                    end.append(before[block] + mine)
    first, second = (np.concatenate([*e, np.zeros(0, np.int64)]) for e in ends)
    size = int(count.sum())
    graph = coo_array((np.ones(len(first), np.uint8), (first, second)), shape=(size, size))
    return int(connected_components(graph, directed=False)[0]) + INSIDE * side**3


def drawing_seconds(work: Path) -> float:
    """Processor seconds that the drawing for the lowest merge took, in all processes."""
    paths = [*work.glob("drawing/*"), *work.glob("*/drawing/*")]
    return sum(float(line) for path in paths for line in path.read_text().splitlines())


def level_rows(work: Path, side: int) -> list[tuple[int, int, int]]:
    """For each level: jobs, and edges and bytes read by its first job, which is a full one."""
    rows = []
    for stage in stages(work, side)[0]:
        nodes = stage.group((0, 0, 0))
        edges = 0
        for node, place in nodes:
            for kind in KINDS:
                axis = node.touching[kind].contact_axis
                edges += int((np.array(place)[axis] == 0).sum())
        members = members_of((0, 0, 0), stage.member_grid, stage.side)
        paths = [record_path(stage.members, member) for member in members]
        read = sum(p.stat().st_size for p in paths if p.exists())
        rows.append((int(np.prod(stage.grid)), edges, read))
    return rows


def top_job_bytes(work: Path, side: int, build: Path = ROOT) -> int:
    """Peak memory of a fresh process that does the top job and nothing else."""
    code = (
        f"stage = m.stages(m.Path({str(work)!r}), {side})[0][-1]; "
        "m.Path('/proc/self/clear_refs').write_text('5'); "  # forget what the parent's peak was
        "stage.write((0, 0, 0), None, stage.compute((0, 0, 0), None, None)); "
        "status = m.Path('/proc/self/status').read_text(); "
        "print(1024 * int(status.split('VmHWM:')[1].split()[0]))"
    )
    return int(apart(code, build))


def apart(code: str, build: Path = ROOT) -> str:
    """What some code prints that runs in a process of its own, with this module as ``m``."""
    return run_with(build, command_of(code), cwd=Path(__file__).parent).told


def command_of(code: str) -> list[str]:
    """A process that runs some code with this module as ``m``."""
    return [sys.executable, "-c", f"import merge_scaling as m; {code}"]


def compare_builds(side: int, workers: int, revision: str, repeats: int) -> dict[str, float]:
    """Measure an older build beside this one; see `against`."""
    top: dict[Path, int] = {}
    left: dict[Path, list[float]] = {}

    def once(build: Path) -> Run:
        with tempfile.TemporaryDirectory() as folder:
            code = f"print(m.run(m.Path({folder!r}), {side}, {workers}, check=False))"
            done = run_with(build, command_of(code), cwd=Path(__file__).parent)
            drawing = drawing_seconds(Path(folder))
            left.setdefault(build, []).append(done.processor_seconds - drawing)
            print(f"{build.name}: {drawing:.1f} processor seconds of drawing", flush=True)
            top[build] = top_job_bytes(Path(folder), side, build)
        return replace(done, seconds=float(done.told))

    with build_of(revision) as old:
        head(revision)
        runs = in_turns({"old": old, "new": ROOT}, repeats, once)
        figures = compared(f"{side**3} blocks", runs["old"], runs["new"])
        ratios = [a / b for a, b in zip(left[old], left[ROOT], strict=True)]
        figures[f"{side**3}_blocks_processor_times_as_fast_undrawn"] = float(np.median(ratios))
        return figures | {"top_job_bytes_old": top[old], "top_job_bytes": top[ROOT]}


def plot(path: Path, blocks: np.ndarray, seconds: np.ndarray, levels: list[list[tuple]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure((9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.loglog(blocks, seconds, "o-", label="measured")
    left.loglog(blocks, seconds[0] * blocks / blocks[0], "--", color="0.6", label="slope 1")
    left.set(xlabel="blocks", ylabel="seconds", title="merge, number, resolve")
    left.legend()
    edges = np.array([max(row[1] for row in rows) for rows in levels])
    right.loglog(blocks, edges, "o-", label="largest graph of one job")
    law = edges[-1] * (blocks / blocks[-1]) ** (2 / 3)
    right.loglog(blocks, law, "--", color="0.6", label="blocks to the 2/3: a cross-section")
    right.set(xlabel="blocks", ylabel="edges", title="largest job")
    right.legend()
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sides", type=int, nargs="+", default=[10, 22, 46, 100])
    parser.add_argument("--against", metavar="REV", help="a commit to measure beside this tree")
    parser.add_argument("--repeats", type=int, default=3, help="turns, with --against")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--plot", type=Path, help="save a picture of the growth")
    parser.add_argument("--json", type=Path, help="write the figures as a flat object")
    given = parser.parse_args()
    if given.against:
        for side in given.sides:
            told = compare_builds(side, given.workers, given.against, given.repeats)
            tell(told, given.json, ".4g")
        return
    print(f"{platform.machine()}, Python {platform.python_version()}, ", end="")
    print(", ".join(f"{p} {version(p)}" for p in ("numpy", "networkx", "scipy", "daisy")))
    print(f"{'blocks':>9} {'seconds':>9} {'ms a block':>11} {'peak MB':>8}")
    seconds, levels, top = [], [], 0
    for side in given.sides:
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            seconds.append(run(work, side, given.workers))
            who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
            peak = max(resource.getrusage(w).ru_maxrss for w in who) / 1024
            each = 1000 * seconds[-1] / side**3
            print(f"{side**3:>9} {seconds[-1]:9.1f} {each:11.2f} {peak:8.0f}", flush=True)
            levels.append(level_rows(work, side))
            top = top_job_bytes(work, side)
    print(f"\n{'level':>6} {'jobs':>9} {'edges':>9} {'kB read':>9}   of one job")
    for level, (jobs, edges, read) in enumerate(levels[-1], 1):
        print(f"{level:>6} {jobs:>9} {edges:>9} {read / 1000:>9.0f}")
    blocks = np.array([float(side**3) for side in given.sides])
    figures = {
        "blocks": blocks[-1],
        "seconds": seconds[-1],
        "top_job_bytes": float(top),
        "largest_graph_edges": float(max(edges for _, edges, _ in levels[-1])),
    }
    if len(blocks) > 1:
        figures["time_exponent"] = float(np.polyfit(np.log(blocks), np.log(seconds), 1)[0])
    if given.plot:
        plot(given.plot, blocks, np.array(seconds), levels)
    tell(figures, given.json, ".4g")


if __name__ == "__main__":
    import merge_scaling  # as a module, so that workers find its stages by name

    merge_scaling.main()
