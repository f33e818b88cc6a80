"""What a million synapses cost: the table, its forms, the graph, and the scene.

    python benchmarks/outputs.py [--synapses 1000000] [--folder DIR] [--json FILE]

Synapses at random places of a cube with one in a cubic micrometre. Each step runs in a process of
its own, whose time (imports left out) and largest memory are told. The scene is drawn by Chromium
without a window (no GPU: WebGL in software): the whole volume, then thirty jumps to random places,
5 micrometres wide; each until everything is there. Peer: the writer that comes with
neuroglancer, on a tenth of the synapses (it writes a file each), and the scene of both.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from figures import tell
from funlib.geometry import Coordinate, Roi

from synpol.config import Connect
from synpol.connectivity import write_tables
from synpol.connectivity.job import SYNAPSES_AT_ONCE
from synpol.connectivity.partners import Parts
from synpol.images.image import Image, open_image
from synpol.images.writing import create_image
from synpol.polarity import Channels
from synpol.synapses.statistics import Rows, Stats
from synpol.synapses.table import synapse_rows, write_synapses

VOXEL = 16
LAYERS = 64
#: of the steps; imported before their time begins
IMPORTS = (
    "funlib.persistence.graphs",
    "networkx",
    "neuroglancer.write_annotations",
    "pandas",
    "pyarrow.csv",
    "synpol.synapses.exports",
    "synpol.scene.annotations",
    "synpol.scene.browser",
    "synpol.scene.state",
    "synpol.scene.server",
)
#: a query: a part of the volume, micrometres
QUERY = 10


def side_of(count: int) -> int:
    """Return the side of the cube that holds the synapses, nm."""
    return round(count ** (1 / 3)) * 1000


def instances_of(count: int) -> Image:
    """Make an image with a shape and a voxel size, but without voxels."""
    shape = (side_of(count) // VOXEL,) * 3

    class Nothing:
        pass

    Nothing.shape = shape  # type: ignore[attr-defined]
    array: Any = Nothing()
    return Image("", array, Coordinate((VOXEL,) * 3), Coordinate(0, 0, 0), "nm")


def parts_of(count: int) -> Iterator[pa.Table]:
    """The table layer by layer, as the decoder makes it."""
    rng = np.random.default_rng(0)
    side, instances = side_of(count) // VOXEL, instances_of(count)
    first = np.linspace(0, count, LAYERS + 1).astype(int)
    for layer, (begin, end) in enumerate(itertools.pairwise(first)):
        n = end - begin
        centre = rng.integers(0, side - 40, (n, 3))
        centre[:, 0] = layer * side // LAYERS + rng.integers(0, side // LAYERS, n)
        step = rng.normal(0, 8, (n, 3)).astype(int)
        sides = []
        for middle in (centre, np.clip(centre + step, 0, side - 20)):
            voxels = rng.integers(100, 600, n)
            probable = voxels * rng.integers(130, 250, n)
            sums = [voxels, *(middle * voxels[:, None]).T, *[probable] * Channels.count]
            peak = np.full((n, Channels.count), 255)
            sides.append(Stats(np.stack(sums, axis=1), middle, middle + 12, peak))
        faces = rng.integers(5, 60, (n, 3))
        rows = Rows(np.arange(n, dtype=np.uint64), faces, sides[0], sides[1])
        number = np.arange(begin + 1, end + 1, dtype=np.uint64)
        yield synapse_rows(number, rows, instances, 255.0)


def query(count: int) -> tuple[np.ndarray, np.ndarray]:
    middle = np.full(3, side_of(count) / 2)
    return middle - QUERY * 500, middle + QUERY * 500


def write_table(folder: Path, count: int) -> None:
    write_synapses(folder / "synapses.parquet", parts_of(count), sides=True)


def read_table(folder: Path, count: int) -> None:
    assert_rows(len(pq.read_table(folder / "synapses.parquet").to_pandas()), count)


def read_query(folder: Path, count: int) -> None:
    low, high = query(count)
    wanted = None
    for axis, a, b in zip("zyx", low, high, strict=True):
        inside = (pc.field(axis) >= a) & (pc.field(axis) < b)
        wanted = inside if wanted is None else wanted & inside
    found = ds.dataset(folder / "synapses.parquet").to_table(filter=wanted)
    print(f"{found.num_rows} synapses in {QUERY} micrometres cubed", file=sys.stderr)


def write_csv(folder: Path, count: int) -> None:
    from synpol.synapses.exports import write_csv

    write_csv(folder / "synapses.parquet", folder / "synapses.csv")


def write_sqlite(folder: Path, count: int) -> None:
    from synpol.synapses.graphs import write_sqlite

    whole = Roi((0, 0, 0), (side_of(count),) * 3)
    table = folder / "synapses.parquet"
    assert_rows(write_sqlite(table, folder / "synapses.db", whole), count)


def query_sqlite(folder: Path, count: int) -> None:
    from funlib.persistence.graphs import SQLiteGraphDataBase

    low, high = (q.astype(int) for q in query(count))
    graph = SQLiteGraphDataBase(folder / "synapses.db", "position", mode="r")
    found = graph.read_graph(Roi(low, high - low)).number_of_nodes()
    print(f"{found} synapses in {QUERY} micrometres cubed", file=sys.stderr)


def parts_at_random(count: int, posts: int = 1) -> Iterator[Parts]:
    """Parts of all synapses, in a tenth as many neurons: one pre part and some post parts each."""
    rng = np.random.default_rng(1)
    for first in range(0, count, SYNAPSES_AT_ONCE):
        numbers = np.arange(first + 1, min(count, first + SYNAPSES_AT_ONCE) + 1, dtype=np.uint64)
        many = len(numbers)
        label = np.repeat(np.stack([2 * numbers - 1, 2 * numbers], axis=1), [1, posts], axis=1)
        step = max(1, count // 10 // (posts + 1))  # neurons of one synapse differ
        neuron = rng.integers(1, step + 1, label.shape) + np.arange(posts + 1) * step
        row = np.arange(many * (posts + 1)).reshape(many, -1)
        yield Parts(
            label=label.ravel(),
            neuron=neuron.ravel().astype(np.uint64),
            voxels=rng.integers(50, 500, row.size),
            anchor=rng.random((row.size, 3)) * side_of(count),
            pre=np.repeat(row[:, 0], posts),
            post=row[:, 1:].ravel(),
            area=rng.random(many * posts) * 1e5,
        )


def make_graph(folder: Path, count: int) -> None:
    """Tables of links and partners, edges, Parquet and GraphML; a link for each synapse."""
    parts, table = parts_at_random(count), folder / "synapses.parquet"
    write_tables(parts, table, folder, Connect(partners="all"), folder)


def write_lines(folder: Path, count: int) -> None:
    from synpol.scene.annotations import write_annotations

    high = (side_of(count),) * 3
    write_annotations(folder / "lines", folder / "synapses.parquet", (0, 0, 0), high)


def write_lines_by_neuron(folder: Path, count: int) -> None:
    from synpol.scene.annotations import write_annotations

    high, partners = (side_of(count),) * 3, folder / "partners.parquet"
    write_annotations(folder / "both", folder / "synapses.parquet", (0, 0, 0), high, partners)


def write_peer(folder: Path, count: int) -> None:
    """The same lines by neuroglancer's own writer."""
    import neuroglancer
    from neuroglancer.write_annotations import AnnotationWriter

    space = neuroglancer.CoordinateSpace(names=["x", "y", "z"], units="nm", scales=[1, 1, 1])
    score = neuroglancer.AnnotationPropertySpec(id="score", type="float32")
    writer = AnnotationWriter(space, "line", properties=[score])
    names = [f"{s}_{a}" for s in ("pre", "post") for a in "xyz"]
    table = pq.read_table(folder / "synapses.parquet", columns=["synapse_id", "pre_score", *names])
    places = np.stack([table[n].to_numpy() for n in names], axis=1)
    for number, score_of, line in zip(
        table["synapse_id"].to_pylist(), table["pre_score"].to_pylist(), places, strict=True
    ):
        writer.add_line(line[:3], line[3:], id=number, score=score_of)
    writer.write(folder / "peer")


def draw(folder: Path, count: int, lines: str = "lines") -> dict[str, float]:
    """Seconds until the whole volume is drawn, and of a jump, in Chromium; and its memory."""
    import neuroglancer
    import psutil

    from synpol.config import Config
    from synpol.scene.browser import browser
    from synpol.scene.server import scene_server, screenshot
    from synpol.scene.state import Layers, scene_of

    shape, voxel = (128,) * 3, side_of(count) // 128
    for name, kind in (("raw", np.uint8), ("instances", np.uint64)):
        image = create_image(
            folder,
            name,
            shape=shape,
            dtype=kind,
            voxel_size=(voxel,) * 3,
            offset=(0, 0, 0),
            unit="nm",
            chunk_shape=(64,) * 3,
            overwrite=True,
        )
        if name == "raw":
            image.array[:] = np.random.default_rng(0).integers(0, 255, shape)
    raw, instances = (open_image(folder / name) for name in ("raw", "instances"))
    layers = Layers(raw, None, instances, None, None)
    folders = {"image": folder / "raw", "instances": folder / "instances"}
    folders["synapses"] = folder / lines

    def state_of(address_of: Any) -> neuroglancer.ViewerState:
        state = scene_of(layers, Config(run_dir="."), address_of)
        side = side_of(count)
        state.cross_section_scale, state.projection_scale = side / 700 / voxel, side / voxel
        return state

    rng = np.random.default_rng(2)
    with scene_server(folders, state_of, port=0) as (viewer, address), browser() as page:
        started = time.monotonic()
        page.get(address)
        (folder / f"{lines}.png").write_bytes(screenshot(viewer, seconds=1800))
        whole = time.monotonic() - started
        jumps = []
        for _ in range(30):
            with viewer.txn() as state:
                state.position = rng.uniform(10, 118, 3)
                state.cross_section_scale, state.projection_scale = (
                    5000 / 700 / voxel,
                    5000 / voxel,
                )
            started = time.monotonic()
            screenshot(viewer, seconds=1800)
            jumps.append(time.monotonic() - started)
        (folder / f"{lines}-near.png").write_bytes(screenshot(viewer))
        process = psutil.Process(page.service.process.pid)
        memory = sum(p.memory_info().rss for p in process.children(recursive=True))
    return {"whole_s": whole, "jump_s": statistics.median(jumps), "chromium_bytes": memory}


def draw_peer(folder: Path, count: int) -> dict[str, float]:
    return draw(folder, count, "peer")


def assert_rows(found: int, expected: int) -> None:
    if found != expected:
        raise RuntimeError(f"{found} rows, not {expected}")


#: every step by its name; those of the second list run on a tenth of the synapses
STEPS: list[Callable[[Path, int], Any]] = [
    write_table,
    read_table,
    read_query,
    write_csv,
    write_sqlite,
    query_sqlite,
    make_graph,
    write_lines,
    write_lines_by_neuron,
    draw,
]
TENTH: list[Callable[[Path, int], Any]] = [write_table, write_lines, draw, write_peer, draw_peer]


def in_process(step: str, folder: Path, count: int) -> dict[str, float]:
    """Run a step in a process of its own; returns its figures."""
    command = [sys.executable, __file__, "--step", step, "--folder", str(folder)]
    done = subprocess.run(
        [*command, "--synapses", str(count)], stdout=subprocess.PIPE, text=True, check=True
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def size_of(path: Path) -> tuple[int, int]:
    """Bytes and files of a file or folder."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(p.stat().st_size for p in files), len(files)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--synapses", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="kept; by default a temporary one")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="write the figures as a flat object")
    given = parser.parse_args()
    if given.step:
        step = globals()[given.step]
        for module in IMPORTS:  # they take longer than some of the steps
            importlib.import_module(module)
        began = time.monotonic()
        found = step(given.folder, given.synapses) or {}
        found |= {"seconds": time.monotonic() - began}
        found |= {"bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
        print(json.dumps(found))
        return
    folder = given.folder or Path(tempfile.mkdtemp(prefix="synpol-outputs-"))
    folder.mkdir(parents=True, exist_ok=True)
    packages = ("pyarrow", "neuroglancer", "tensorstore", "funlib.persistence", "networkx")
    print(platform.platform(), *(f"{p} {version(p)}" for p in packages))
    figures: dict[str, float] = {}
    for steps, count, ending in (
        (STEPS, given.synapses, ""),
        (TENTH, given.synapses // 10, "_tenth"),
    ):
        place = folder / f"of_{count}"
        place.mkdir(exist_ok=True)
        for step in steps:
            name = step.__name__
            for key, value in in_process(name, place, count).items():
                figures[f"{name}_{key}{ending}"] = value
            print(
                f"{count:>8} {name:<22} {figures[f'{name}_seconds{ending}']:8.1f} s "
                f"{figures[f'{name}_bytes{ending}'] / 1e6:8.0f} MB",
                flush=True,
            )
        for name in ("synapses.parquet", "synapses.csv", "synapses.db", "lines", "both", "peer"):
            if (place / name).exists():
                size, files = size_of(place / name)
                print(f"{count:>8} {name:<22} {size / 1e6:8.1f} MB in {files} files")
                figures[f"{Path(name).stem}_{name.rpartition('.')[2]}_size{ending}"] = size
    figures["lines_over_peer"] = (
        figures["write_peer_seconds_tenth"] / figures["write_lines_seconds_tenth"]
    )
    tell(figures, given.json)
    if not given.folder:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
