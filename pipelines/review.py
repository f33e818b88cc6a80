"""Look at single synapses of a result, judge them, and see how good the result is.

  --link           print the address only, instead of opening a browser
  --import FILE    add verdicts: Parquet of --export, or a state of neuroglancer with lines
  --export FILE    write the verdicts into FILE.parquet or, as lines for neuroglancer, FILE.json
  --report         print how good the result is by the verdicts, and write it to review.html
                   and review.json in predict.output

Serves a page on this machine until Ctrl-C. The verdicts are kept in verdicts.db beside the result,
as they are given; several reviewers may work at once, also from several machines.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import signal
import threading
import webbrowser
from pathlib import Path

from synpol.blockwise.records import work_folder
from synpol.command import run_command
from synpol.config import Config
from synpol.decoding.job import decode_blockwise
from synpol.errors import InputError
from synpol.files import is_url, join, write_json, write_text
from synpol.images.claim import check_complete
from synpol.images.image import open_image
from synpol.images.writing import check_writable
from synpol.report.review_page import NAMES, review_page, shown_interval
from synpol.review.cutter import Cutter
from synpol.review.desk import CANDIDATE, PLACE, Item
from synpol.review.exchange import read_parquet, read_state, write_lines, write_parquet
from synpol.review.opening import CANDIDATES, open_desk, store_path
from synpol.review.server import ReviewPages
from synpol.review.store import VerdictStore
from synpol.review.tiles import Tile, Volume, cut_tile
from synpol.review.verdicts import standing
from synpol.scene.annotations import score_range
from synpol.scene.server import private_page, scene_server
from synpol.scene.state import ANNOTATIONS, Layers, scene_of


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--link", action="store_true")
    parser.add_argument("--import", type=Path, metavar="FILE", dest="take")
    parser.add_argument("--export", type=Path, metavar="FILE")
    parser.add_argument("--report", action="store_true")


def main(config: Config, given: argparse.Namespace) -> None:
    output = config.need("predict.output")
    if is_url(output):
        raise InputError(
            f"predict.output is {output}; a result is reviewed in a local folder so far: copy or "
            "mount it"
        )
    layers = Layers.of(config)
    for image, _ in layers.images().values():
        check_complete(image)
    path = store_path(config)
    check_writable(path.parent)
    with VerdictStore(path) as store:
        if given.take or given.export:
            exchange(config, given, store, layers.raw.voxel_size_nm)
        if given.report:
            report(config, store, layers)
        if not (given.take or given.export or given.report):
            serve(config, given, store, layers)


def report(config: Config, store: VerdictStore, layers: Layers) -> None:
    """Write how good the result is, and print the main numbers."""
    quality = open_desk(config, store, layers.instances).quality()
    folder = Path(config.need("predict.output"))
    write_json(folder / "review.json", quality)
    write_text(folder / "review.html", review_page(quality, str(folder)))
    for name, text in NAMES.items():
        one = quality[name]
        said = "not known yet" if one is None else shown_interval(one)
        print(f"{text:<14} {said}")
    print(f"{folder / 'review.json'}\n{folder / 'review.html'}")


def exchange(
    config: Config, given: argparse.Namespace, store: VerdictStore, voxel_size: tuple[float, ...]
) -> None:
    """Import and export verdicts."""
    if given.take:
        state = given.take.suffix.lower() == ".json"
        verdicts = (
            read_state(given.take, reviewer_of(config)) if state else read_parquet(given.take)
        )
        print(f"{store.add(verdicts)} of {len(verdicts)} verdicts are new")
    if given.export:
        verdicts, _ = store.read()
        if given.export.suffix.lower() == ".json":
            write_lines(given.export, standing(verdicts), voxel_size)
        elif given.export.suffix.lower() == ".parquet":
            write_parquet(given.export, verdicts)
        else:
            raise InputError(
                f"--export {given.export}: a name that ends in .parquet or .json is expected"
            )
        print(given.export)


def reviewer_of(config: Config) -> str:
    """Return the name that the config says, or the user's on this machine."""
    with contextlib.suppress(OSError, KeyError):
        return config.review.reviewer or getpass.getuser()
    return "reviewer"


def open_volumes(config: Config, layers: Layers) -> dict[str, Volume]:
    """Open what tiles are cut from; candidates are decoded first, where a config asks for them."""
    raw, sides = layers.raw, config.decode.sides
    volumes = {"found": Volume.of(raw, layers.instances, sides)}
    if config.review.thres is not None:
        decode_candidates(config)
        path = join(config.need("predict.output"), CANDIDATES, "instances")
        volumes[CANDIDATE] = Volume.of(raw, open_image(path, channels=0), sides)
    return volumes


def decode_candidates(config: Config) -> None:
    """Decode the prediction once more, with the lower threshold."""
    output, chosen = config.need("predict.output"), config.decode
    if config.exclusive:
        raise InputError(
            "review.thres is given, but an exclusive network has no threshold; leave it out"
        )
    if config.review.thres is None or config.review.thres >= chosen.thres:
        raise InputError(
            f"review.thres is {config.review.thres}; less than decode.thres ({chosen.thres}) is "
            "expected"
        )
    folder = join(output, CANDIDATES)
    decode_blockwise(
        join(output, "polarity"),
        folder,
        block_shape=chosen.block_shape,
        num_workers=config.workers.num_workers,
        thres=config.review.thres,
        thres_small=chosen.thres_small,
        dilate_sz=chosen.dilate_sz,
        sides=chosen.sides,
        synapses=join(folder, "synapses.parquet"),
        work_dir=work_folder(output, config.workers.work_dir) / CANDIDATES,
        workers=config.workers,
    )


def serve(config: Config, given: argparse.Namespace, store: VerdictStore, layers: Layers) -> None:
    """Serve the page until Ctrl-C."""
    settings = config.review
    volumes = open_volumes(config, layers)
    desk = open_desk(config, store, layers.instances)

    def cut(item: Item) -> Tile:
        pre, post = desk.ends_of(item)
        number = 0
        if item.kind == PLACE:
            pre = post = tuple((a + b) / 2 for a, b in zip(pre, post, strict=True))  # type: ignore[assignment]
        else:
            number = int(desk.tables[item.kind].number[item.row])
        volume = volumes[CANDIDATE if item.kind == CANDIDATE else "found"]
        return cut_tile(volume, pre, post, number, settings.extent, settings.sections)

    table = desk.table
    about = {
        "title": config.need("predict.output"),
        "reviewer": reviewer_of(config),
        "extent": settings.extent,
        "sides": config.decode.sides,
        "store": str(store.path.resolve()),
    }
    pages = ReviewPages(desk, Cutter(cut), about)
    lines = table.with_name(ANNOTATIONS) if table.with_name(ANNOTATIONS).is_dir() else None
    addresses, folders = layers.places(lines)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with (
        contextlib.closing(pages),
        scene_server(
            folders,
            lambda served: scene_of(layers, config, {**addresses, **served}, score_range(table)),
            port=settings.port,
            pages=pages.handlers,
            key="review.port",
        ) as (_, scene),
    ):
        address = scene.replace("/open/", "/review/") + "/"
        print(f"{address}\nCtrl-C ends it", flush=True)
        with private_page(address) as opening:
            if not given.link:
                webbrowser.open(opening.as_uri())
            ended.wait()


if __name__ == "__main__":
    run_command(main, __doc__, options=options, timed=False)
