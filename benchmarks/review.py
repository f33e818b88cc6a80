"""How quick the review page is with very many synapses.

    python benchmarks/review.py [--synapses 1000000] [--verdicts 100] [--pause 0.5] [--json FILE]
                                [--folder FOLDER]

A table of a million synapses at random places, of both sides, lies beside an image of noise
(64 x 1024 x 1024 voxels of 30 x 8 x 8 nm, chunks of 16 x 64 x 64); the first 10,000 of them are
drawn in the instances. --folder keeps all this, for `benchmarks/peers/synanno_pages.py`. `desk_s`
is the time in which a process that has imported everything reads the table, and `first_items_s`
that until it knows what comes first in the random sample. `server_s` is the time from starting
pipelines/review.py until it prints its address, imports and all, `server_cpu_s` its processor time
so far, and `page_s` the time until a Chromium without a window has drawn the first tile. Then a
verdict is given by key every --pause seconds: `next_ms` is the time from a key until the next tile
is drawn. `cut_ms` is the time in which one thread cuts a tile.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from figures import tell

from synpol.config import load_config
from synpol.files import digest_beside
from synpol.images.image import open_image
from synpol.images.writing import create_image
from synpol.review.opening import open_desk
from synpol.review.store import VerdictStore
from synpol.review.tiles import Volume, cut_tile
from synpol.scene.browser import browser
from synpol.synapses.table import schema_of

ROOT = Path(__file__).resolve().parents[1]
SHAPE, SIZE = (64, 1024, 1024), (30, 8, 8)
#: synapses that are drawn in the instances
DRAWN = 10_000


def drawn(pre: np.ndarray, post: np.ndarray) -> np.ndarray:
    """Draw balls of 50 nm around the sides of synapses, whose places (n, 3) are in nm."""
    labels = np.zeros(SHAPE, np.uint64)
    reach = np.array([1, 6, 6])
    around = np.stack(np.meshgrid(*[np.arange(-r, r + 1) for r in reach], indexing="ij"), -1)
    ball = around[np.linalg.norm(around * SIZE, axis=-1) <= 50]
    for side, ends in enumerate((pre, post)):
        for number, place in enumerate(ends, start=1):
            at = np.clip((place // SIZE).astype(int) + ball, 0, np.array(SHAPE) - 1)
            labels[tuple(at.T)] = 2 * number - 1 + side
    return labels


def make_result(folder: Path, count: int) -> Path:
    """Make image, instances and a table; returns the config."""
    rng = np.random.default_rng(0)
    for name, dtype in (("raw", np.uint8), ("instances", np.uint64)):
        image = create_image(
            folder,
            name,
            shape=SHAPE,
            dtype=dtype,
            voxel_size=SIZE,
            offset=(0, 0, 0),
            unit="nm",
            chunk_shape=(16, 64, 64),
        )
        for z in range(0, SHAPE[0], 16):
            if name == "raw":
                image.array[z : z + 16] = rng.integers(0, 256, (16, *SHAPE[1:])).astype(np.uint8)
    extent = np.array(SHAPE) * SIZE
    middle = rng.uniform(0, 1, (count, 3)) * extent
    direction = rng.normal(size=(count, 3))
    direction /= np.linalg.norm(direction, axis=1)[:, None]
    places = {"": middle, "pre_": middle - 60 * direction, "post_": middle + 60 * direction}
    image.array[:] = drawn(places["pre_"][:DRAWN], places["post_"][:DRAWN])
    schema, columns = schema_of(sides=True), {}
    for field in schema:
        side, axis = field.name[:-1], field.name[-1]
        if field.name == "synapse_id":
            values: np.ndarray = np.arange(1, count + 1)
        elif side in places and axis in "zyx":
            values = places[side][:, "zyx".index(axis)]
        elif side == "direction_":
            values = direction[:, "zyx".index(axis)]
        elif "score" in field.name:
            values = rng.beta(5, 2, count)
        elif pa.types.is_boolean(field.type):
            values = np.zeros(count, bool)
        else:
            values = rng.integers(20, 2000, count)
        columns[field.name] = pa.array(values.astype(field.type.to_pandas_dtype()))
    path = folder / "synapses.parquet"
    with digest_beside(path), pq.ParquetWriter(path, schema, compression="zstd") as writer:
        writer.write_table(pa.table(columns, schema=schema), row_group_size=20_000)
    config = folder / "config.yaml"
    told = {
        "run_dir": str(folder / "run"),
        "predict": {"raw": str(folder / "raw"), "output": str(folder)},
        "review": {"port": 0},
    }
    config.write_text(yaml.safe_dump(told))
    return config


def in_this_process(path: Path) -> dict[str, float]:
    """Time the desk and the cutting of tiles."""
    config = load_config([str(path)])
    instances = open_image(path.parent / "instances")
    with VerdictStore(path.parent / "other.db") as store:
        begun = time.perf_counter()
        desk = open_desk(config, store, instances)
        opened = time.perf_counter()
        items = desk.next_items("sample", "ann", 50, {})
        chosen = time.perf_counter()
        volume = Volume.of(open_image(path.parent / "raw"), instances, True)
        times = []
        for number, item in enumerate(items, start=1):
            start = time.perf_counter()
            cut_tile(volume, *desk.ends_of(item), number, 1000.0, 15)
            times.append(1000 * (time.perf_counter() - start))
    return {
        "desk_s": opened - begun,
        "first_items_s": chosen - opened,
        "cut_ms_median": statistics.median(times),
        "cut_ms_95": float(np.quantile(times, 0.95)),
    }


def in_a_browser(config: Path, verdicts: int, pause: float) -> dict[str, float]:
    """Time the command and the page."""
    command = [sys.executable, str(ROOT / "pipelines" / "review.py"), str(config), "--link"]
    with (
        browser((1500, 950)) as page,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as served,
    ):
        begun = time.perf_counter()
        assert served.stdout is not None
        address = next(line for line in served.stdout if line.startswith("http")).strip()
        listening = time.perf_counter()
        spent = psutil.Process(served.pid).cpu_times()
        page.get(address)
        body = page.find_element("tag name", "body")

        def shown(after: str | None = None) -> str:
            while (now := page.execute_script("return document.body.dataset.shown")) in (
                None,
                after,
            ):
                time.sleep(0.005)
            return str(now)

        now = shown()
        drawn = time.perf_counter()
        times = []
        for _ in range(verdicts):
            time.sleep(pause)
            body.send_keys("r")
            now = shown(now)
            times.append(float(page.execute_script("return document.body.dataset.took")))
        memory = psutil.Process(served.pid).memory_info().rss / 2**20
        heap = page.execute_script("return performance.memory.usedJSHeapSize") / 2**20
        served.terminate()
    return {
        "server_s": listening - begun,
        "server_cpu_s": spent.user + spent.system,
        "page_s": drawn - listening,
        "next_ms_median": statistics.median(times),
        "next_ms_95": float(np.quantile(times, 0.95)),
        "server_mib": memory,
        "page_heap_mib": float(heap),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--synapses", type=int, default=1_000_000)
    parser.add_argument("--verdicts", type=int, default=100)
    parser.add_argument("--pause", type=float, default=0.5)
    parser.add_argument("--json", type=Path, help="write the figures as a flat object")
    parser.add_argument("--folder", type=Path, help="keep the result in this new folder")
    given = parser.parse_args()
    with contextlib.ExitStack() as kept:
        folder = given.folder or kept.enter_context(tempfile.TemporaryDirectory())
        config = make_result(Path(folder), given.synapses)
        figures = in_this_process(config) | in_a_browser(config, given.verdicts, given.pause)
    tell(figures, given.json)


if __name__ == "__main__":
    main()
