"""Show a result in neuroglancer: image, prediction, instances, truth, and a line for each synapse.

  --link                print the address only, instead of opening a browser
  --screenshot FILE     draw the scene without a window (Chromium) into a PNG, and end
  --prepare             make what the scene needs, and end
  --levels NAME ...     give image, prediction, truth or neurons that others wrote coarser levels
                        too, in their own Zarr

Makes coarser levels of what synpol wrote, block by block, and the synapses as precomputed
annotations, both once; then serves the scene on this machine until Ctrl-C.
"""

from __future__ import annotations

import argparse
import threading
import webbrowser
from pathlib import Path

import numpy as np

from synpol.arrays import HASH, check_complete, image_path, is_url, levels_of
from synpol.blockwise.driver import Driver
from synpol.blockwise.level import add_levels
from synpol.blockwise.output import work_folder
from synpol.command import run_command
from synpol.config import Config
from synpol.errors import InputError
from synpol.levels import level_factors
from synpol.precomputed import SCHEME
from synpol.viewer.annotations import score_range, write_annotations
from synpol.viewer.browser import browser
from synpol.viewer.links import scene_token
from synpol.viewer.scene import ANNOTATIONS, Layers, scene_of
from synpol.viewer.scene_server import scene_server, screenshot
from synpol.writing import check_writable


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


def main(config: Config, given: argparse.Namespace) -> None:
    layers = Layers.of(config)
    if given.screenshot:
        check_writable(given.screenshot.parent)
    work = work_folder(config.need("predict.output"), config.workers.work_dir)
    make_levels(config, layers, work, given.levels, given.fresh)
    addresses: dict[str, str] = {}
    folders: dict[str, str] = {}
    for name, (image, _) in layers.images().items():
        path = image_path(image).removeprefix(SCHEME)
        (addresses if is_url(path) else folders)[name] = path
    scores = (0.0, 1.0)
    table = Path(config.need("predict.output")) / "synapses.parquet"
    if table.is_file():
        annotations = table.with_name(ANNOTATIONS)
        make_annotations(layers, annotations, table)
        folders["synapses"] = str(annotations)
        scores = score_range(table)
    else:
        print(f"no lines are drawn: there is no {table}")
    if given.prepare:
        return
    with scene_server(
        {name: Path(path) for name, path in folders.items()},
        lambda served: scene_of(layers, config, {**addresses, **served}, scores),
        port=config.view.port,
        token=scene_token(work),
    ) as viewer:
        if given.screenshot:
            with browser() as page:
                page.get(viewer.get_viewer_url())
                given.screenshot.write_bytes(screenshot(viewer))
            print(given.screenshot)
            return
        try:
            print(f"{viewer.get_viewer_url()}\nCtrl-C ends it", flush=True)
            if not given.link:
                webbrowser.open(viewer.get_viewer_url())
            threading.Event().wait()
        except KeyboardInterrupt:
            print()


def make_levels(config: Config, layers: Layers, work: Path, wanted: list[str], fresh: bool) -> None:
    """Give every image that synpol wrote, and those named, coarser levels."""
    images = layers.images()
    for name in wanted:
        if name not in images:
            raise InputError(f"--levels {name}: the config names no {name}")
    for image, _ in images.values():
        check_complete(image)
    check_writable(work)
    with Driver(
        work, f"scene of {layers.instances.path}", config.workers.num_workers, config.workers
    ) as driver:
        for name, (image, labels) in images.items():
            if HASH in image.array.attrs or name in wanted:
                add_levels(driver, image, labels, fresh=fresh)
            elif not levels_of(image) and level_factors(image.shape_vx, image.voxel_size):
                print(
                    f"{image.path} has no coarser levels, so it is slow when zoomed out; "
                    f"--levels {name} makes them, in the same Zarr"
                )


def make_annotations(layers: Layers, folder: Path, table: Path) -> None:
    """Write the synapses as lines; by neuron too, where neurons are shown and partners known."""
    grid = layers.instances
    low = np.array(grid.offset_nm)
    high = low + np.array(grid.voxel_size_nm) * np.array(grid.shape_vx)
    partners = table.with_name("partners.parquet")
    known = layers.neurons is not None and partners.is_file()
    write_annotations(folder, table, low, high, partners if known else None)


if __name__ == "__main__":
    run_command(main, __doc__, options=options)
