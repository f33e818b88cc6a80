"""Show a result in neuroglancer: image, prediction, instances, truth, and a line for each synapse.

  --link                print the address only, instead of opening a browser
  --screenshot FILE     draw the scene without a window (Chromium) into a PNG, and end
  --prepare             make what the scene needs, and end
  --levels NAME ...     give image, prediction, truth or neurons that others wrote coarser levels
                        too, in their own Zarr

  --live                show what the network answers where one looks, without any run

--fresh makes the levels again, where an image was rewritten in place.

Makes coarser levels of what synpol wrote, block by block, and the synapses as precomputed
annotations, both once; then serves the scene on this machine until Ctrl-C. --live makes nothing:
the network computes what is on the screen, as a run would, and a box that one draws becomes
predict.roi.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import sys
import tempfile
import threading
import webbrowser
from pathlib import Path

import neuroglancer

from synpol.blockwise.driver import Driver
from synpol.blockwise.records import work_folder
from synpol.command import run_command
from synpol.config import Config
from synpol.errors import InputError
from synpol.files import is_url
from synpol.images.claim import check_complete, is_ours
from synpol.images.downsampling import level_factors
from synpol.images.groups import levels_of
from synpol.images.writing import check_writable
from synpol.scene.annotations import score_range, write_annotations
from synpol.scene.browser import browser
from synpol.scene.levels import add_levels
from synpol.scene.server import private_page, scene_server, screenshot
from synpol.scene.state import ANNOTATIONS, Layers, scene_of
from synpol.synapses.link_forms import links_of


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--link", action="store_true")
    parser.add_argument("--screenshot", type=Path, metavar="FILE")
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument(
        "--levels",
        nargs="+",
        default=[],
        choices=("image", "prediction", "truth", "neurons"),
        metavar="NAME",
    )
    parser.add_argument("--fresh", action="store_true", help="make levels again")
    parser.add_argument("--live", action="store_true")


def main(config: Config, given: argparse.Namespace) -> None:
    if given.live:
        show_live(config, given)
        return
    layers, output = Layers.of(config), config.need("predict.output")
    for image, _ in layers.images().values():
        check_complete(image)
    for name in given.levels:
        if name not in layers.images():
            raise InputError(f"--levels {name}: the config names no {name}")
    check_picture(given.screenshot)
    table = Path(output) / "synapses.parquet"
    lines = table.with_name(ANNOTATIONS) if table.is_file() else None
    work = work_folder(output, config.workers.work_dir)
    check_writable(work)
    with Driver(
        work, f"scene of {layers.instances.path}", config.workers.num_workers, config.workers
    ) as driver:
        make_levels(driver, layers, given.levels, given.fresh)
        if lines is not None:
            check_writable(output)
            make_annotations(layers, lines, table)
    if lines is None:
        print(f"no lines are drawn: there is no {table}")
    if not given.prepare:
        show(config, layers, lines, score_range(table) if lines else (0.0, 1.0), given)


def show(
    config: Config,
    layers: Layers,
    lines: Path | None,
    scores: tuple[float, float],
    given: argparse.Namespace,
) -> None:
    """Serve the scene until Ctrl-C, or take its picture."""
    addresses, folders = layers.places(lines)
    with scene_server(
        folders,
        lambda served: scene_of(layers, config, {**addresses, **served}, scores),
        port=config.view.port,
    ) as (viewer, address):
        look(viewer, address, given)


def show_live(config: Config, given: argparse.Namespace) -> None:
    """Serve what the network answers until Ctrl-C, or take its picture."""
    from synpol.model.trained import find_checkpoint
    from synpol.scene.live import LiveScene

    if given.prepare or given.fresh or given.levels:
        raise InputError("--live makes no files; leave out --prepare, --fresh and --levels")
    check_picture(given.screenshot)
    config.need_image("predict.raw")
    with (
        tempfile.TemporaryDirectory(prefix="synpol-live-") as folder,
        contextlib.closing(LiveScene(config, find_checkpoint(config), Path(folder))) as scene,
    ):
        addresses, folders = scene.layers.places(None)
        with scene_server(
            folders,
            lambda served: scene.state({**addresses, **served}),
            port=config.view.port,
            pages=scene.pages,
            chunks=scene.chunks(),
            chunk_port=config.view.live_port,
        ) as (viewer, address):
            region = address.replace("/open/", "/region/")
            print(f"a box in the layer 'region' as predict.roi: {region}")
            look(viewer, address, given)


def check_picture(picture: Path | None) -> None:
    """Refuse a picture that cannot be written."""
    if picture is None:
        return
    if picture.is_dir():
        raise InputError(f"{picture} is a folder; a file to write is expected")
    check_writable(picture.parent)


def look(viewer: neuroglancer.Viewer, address: str, given: argparse.Namespace) -> None:
    """Take a picture of a scene that is served, or wait until Ctrl-C."""
    if given.screenshot:
        with browser() as page:
            page.get(address)
            given.screenshot.write_bytes(screenshot(viewer))
        print(given.screenshot)
        return
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    print(f"{address}\nCtrl-C ends it", flush=True)
    with private_page(address) as opening:
        if not given.link:
            webbrowser.open(opening.as_uri())
        ended.wait()


def make_levels(driver: Driver, layers: Layers, wanted: list[str], fresh: bool) -> None:
    """Give every image that synpol wrote on disk, and those named, coarser levels."""
    for name, (image, labels) in layers.images().items():
        ours = is_ours(image.array) and not is_url(image.path)
        if not ours and name not in wanted:
            if not levels_of(image) and level_factors(image.shape_vx, image.voxel_size):
                print(f"{image.path} has no coarser levels, so it is slow when zoomed out")
            continue
        try:
            add_levels(driver, image, labels, fresh=fresh)
        except InputError as error:
            if name in wanted:
                raise
            print(f"{error}; it is slow when zoomed out", file=sys.stderr)
    for old in driver.work_dir.glob("level-*"):  # of images that have changed since
        shutil.rmtree(old)


def make_annotations(layers: Layers, folder: Path, table: Path) -> None:
    """Write the synapses as lines; by neuron too, where neurons are shown and partners known."""
    instances = layers.instances
    partners = table.with_name("partners.parquet")
    known = layers.neurons is not None and partners.is_file()
    low, high = instances.offset_nm, instances.end_nm
    links = links_of(table) if known else None
    write_annotations(folder, table, low, high, partners if known else None, links)


if __name__ == "__main__":
    run_command(main, __doc__, options=options, timed=False)
