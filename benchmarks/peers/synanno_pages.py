"""Peer: SynAnno, the pages of tiles on which it shows synapses of a volume.

    git clone https://github.com/PytorchConnectomics/SynAnno; uv venv -p 3.12 env
    uv pip install -p env './SynAnno[seg]' psutil 'pyarrow<22' requests zarr
    env/bin/python synanno_pages.py FOLDER --checkout SynAnno [--pages 5] [--json FILE]

FOLDER is one that `benchmarks/review.py --folder` has made. Image and instances are first written,
untimed, as precomputed volumes with the chunks of the Zarr arrays, and the synapses as the CSV
table that SynAnno reads. Its own application is then started and asked what its page asks:
`load_materialization`, `upload` (view of a volume), `annotation`, `update_image_tiles` for each
page of 24 tiles, and the middle section of each tile with its overlay. A tile has 15 sections of
125 x 125 voxels, as in synpol's page.

`start_s` is the time until the server answers, imports and all; `table_s` reads the table and
opens the volumes; `first_page_s` is the time from there until all pictures of the first page are
there, `page_s_median` that of the pages after it; `start_cpu_s` and `page_cpu_s` are processor
time. Memory is that of the server and its children. Synapses within a tile of the border of the
volume come last in the table, on pages that are not opened: it has no picture of tiles that are cut
off.

Against it: torch, which it imports at its start, may be a build for CUDA; it asks CloudVolume for
parallel downloads, which are made for data that are far away.
For it: no browser draws the pages.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import requests
import zarr
from cloudvolume import CloudVolume

SIZE = (8, 8, 30)
CROP = (125, 125, 15)
TILES = 24
SERVER = (
    "import sys; from synanno import create_app; create_app().run('127.0.0.1', int(sys.argv[1]))"
)


def convert(folder: Path, scratch: Path) -> None:
    """Write the image and the instances as precomputed volumes, and the table as CSV."""
    for name, kind in (("raw", "image"), ("instances", "segmentation")):
        array: Any = zarr.open_array(str(folder / name / "s0"), mode="r")
        voxels = np.asarray(array[:])
        info = CloudVolume.create_new_info(
            num_channels=1,
            layer_type=kind,
            data_type=str(voxels.dtype),
            encoding="raw",
            resolution=SIZE,
            voxel_offset=(0, 0, 0),
            chunk_size=(64, 64, 16),
            volume_size=voxels.shape[::-1],
        )
        volume = CloudVolume(f"file://{scratch / name}", info=info, progress=False)
        volume.commit_info()
        volume[:] = voxels.T[..., None]
    names = [f"{part}{axis}" for part in ("", "pre_", "post_") for axis in "xyz"]
    rows = pq.read_table(folder / "synapses.parquet", columns=names)
    titles = [f"{part}{axis}" for part in ("", "pre_pt_", "post_pt_") for axis in "xyz"]
    columns = [(rows[name].to_numpy() / SIZE["xyz".index(name[-1])]).astype(int) for name in names]
    axes = zip(columns, CROP, array.shape[::-1], strict=False)
    inside = np.all([(c >= n) & (c < size - n) for c, n, size in axes], axis=0)
    columns = [np.concatenate([c[inside], c[~inside]]) for c in columns]
    with (scratch / "synapses.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(titles)
        writer.writerows(zip(*(column.tolist() for column in columns), strict=True))


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


class Server:
    """A running application, and what it costs."""

    def __init__(self, checkout: Path, log: Path) -> None:
        port, neuroglancer = free_port(), free_port()
        more = {
            "PYTHONPATH": str(checkout),
            "PUBLIC_DNS_SYNANNO": "127.0.0.1",
            "NG_PORT": str(neuroglancer),
        }
        self.at = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-c", SERVER, str(port)]
        with log.open("w") as file:
            self.process = subprocess.Popen(
                command, cwd=checkout, env=os.environ | more, stdout=file, stderr=file
            )
        while True:
            try:
                self.ask("GET", "/")
                return
            except requests.ConnectionError:
                if self.process.poll() is not None:
                    raise SystemExit(log.read_text()[-2000:]) from None
                time.sleep(0.05)

    def ask(self, method: str, path: str, **more: Any) -> requests.Response:
        """Send a request, and refuse an answer that is a fault."""
        answer = requests.request(method, self.at + path, timeout=600, **more)
        answer.raise_for_status()
        return answer

    def page(self, number: int) -> tuple[float, int]:
        """Ask for a page and its pictures; returns the seconds and the number of pictures."""
        begun = time.perf_counter()
        self.ask("GET", f"/annotation/{number}")
        text = self.ask("GET", f"/update_image_tiles/{number}").text
        found = set(re.findall(r"/get_(?:source|target)_image/\d+/\d+", text))
        for path in sorted(found):
            self.ask("GET", path)
        return time.perf_counter() - begun, len(found)

    def seconds(self) -> float:
        """Return the processor time of the server and its children so far."""
        return float(sum(psutil.Process(self.process.pid).cpu_times()[:4]))

    def memory(self) -> float:
        """Return the resident memory of the server and its children, MiB."""
        own = psutil.Process(self.process.pid)
        return float(sum(p.memory_info().rss for p in [own, *own.children(recursive=True)]) / 2**20)


def measure(folder: Path, checkout: Path, scratch: Path, pages: int) -> dict[str, float]:
    """Convert, start, and look at some pages."""
    convert(folder, scratch)
    begun = time.perf_counter()
    server = Server(checkout, scratch / "log")
    try:
        started, idle, start_cpu = time.perf_counter(), server.memory(), server.seconds()
        form = {
            "view_style": "volume",
            "tiles_per_page": TILES,
            "coordinates": "xyz",
            "source_url": f"file://{scratch / 'raw'}",
            "target_url": f"file://{scratch / 'instances'}",
            "neuropil_url": f"file://{scratch / 'instances'}",
            **{f"crop_size_c{axis}": CROP[axis % 3] for axis in range(4)},
            **{f"res-{kind}-{n + 1}": SIZE[n] for kind in ("source", "target") for n in range(3)},
        }
        table = {"materialization_url": f"file://{scratch / 'synapses.csv'}"}
        server.ask("POST", "/load_materialization", json=table)
        server.ask("POST", "/upload", data=form, files={"file_json": ("", b"")})
        opened = time.perf_counter()
        first, pictures = server.page(1)
        spent = server.seconds()
        rest = [server.page(number)[0] for number in range(2, pages + 2)]
        spent = (server.seconds() - spent) / pages
        return {
            "start_s": started - begun,
            "start_cpu_s": start_cpu,
            "table_s": opened - started,
            "first_page_s": first,
            "pictures_of_a_page": float(pictures),
            "page_s_median": statistics.median(rest),
            "page_cpu_s": spent,
            "memory_mib_idle": idle,
            "memory_mib": server.memory(),
        }
    finally:
        server.process.terminate()
        server.process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--checkout", type=Path, required=True)
    parser.add_argument("--pages", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures as a flat object")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        figures = measure(given.folder, given.checkout.resolve(), Path(scratch), given.pages)
    for name, value in figures.items():
        print(f"{name:<20} {value:.2f}")
    if given.json:
        given.json.write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
