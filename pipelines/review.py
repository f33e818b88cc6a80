"""Look at single synapses of a result, judge them, and see how good the result is.

  --link           print the address only, instead of opening a browser
  --import FILE    add verdicts: Parquet of --export, or a state of neuroglancer with lines
  --export FILE    write the verdicts into FILE.parquet or, as lines for neuroglancer, FILE.json
  --apply FOLDER   write a new version of the result: without what is no synapse, with exchanged
                   sides turned, parts of one synapse joined, and several under one number taken
                   apart, or listed in left.json; --above SCORE also leaves out lower scores that
                   nobody called real
  --labels FOLDER  write labels to learn from (truth) into FOLDER: what was judged, and all else
                   unknown; --hold-back SHARE learns from the other places alone, and writes the
                   verdicts about this share of them into FOLDER/held_back.parquet
  --compare FOLDER --on FILE
                   say whether a newer result, in FOLDER, is better than this one at the places of
                   verdicts that were held back (FILE); writes compare.html and compare.json into
                   FOLDER
  --report         print how good the result is by the verdicts, and write it to review.html
                   and review.json in predict.output

Serves a page on this machine until Ctrl-C. The verdicts are kept in verdicts.db beside the result,
as they are given; several reviewers may work at once, also from several machines.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import getpass
import signal
import sys
import threading
import webbrowser
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from synpol.command import run_command
from synpol.config import Config
from synpol.errors import InputError
from synpol.files import is_url, join, write_json, write_text
from synpol.images.claim import check_complete
from synpol.images.image import open_image
from synpol.images.writing import check_writable
from synpol.polarity import UNKNOWN
from synpol.report.review_page import (
    BOTH,
    COMPARED,
    NAMES,
    compare_page,
    review_page,
    shown_interval,
)
from synpol.review.cutter import Cutter
from synpol.review.desk import CANDIDATE, FOUND, PLACE, Desk, Item
from synpol.review.exchange import read_parquet, read_state, write_lines, write_parquet
from synpol.review.found import read_found
from synpol.review.opening import CANDIDATES, decode_candidates, open_desk, store_path
from synpol.review.server import ReviewPages
from synpol.review.store import VerdictStore
from synpol.review.tiles import Tile, Volume, cut_tile
from synpol.review.verdicts import Verdict, standing
from synpol.scene.annotations import score_range
from synpol.scene.server import private_page, scene_server
from synpol.scene.state import ANNOTATIONS, Layers, scene_of

#: verdicts that were held back, in the folder of --labels
HELD_BACK = "held_back.parquet"
#: split and merged synapses that stay as they are, in the folder of --apply
LEFT = "left.json"


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--link", action="store_true")
    parser.add_argument("--import", type=Path, metavar="FILE", dest="take")
    parser.add_argument("--export", type=Path, metavar="FILE")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--apply", type=Path, metavar="FOLDER")
    parser.add_argument("--above", type=float, metavar="SCORE")
    parser.add_argument("--labels", type=Path, metavar="FOLDER")
    parser.add_argument("--hold-back", type=float, metavar="SHARE")
    parser.add_argument("--compare", type=Path, metavar="FOLDER")
    parser.add_argument("--on", type=Path, metavar="FILE")


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
    check_options(given)
    path = store_path(config)
    try:
        check_writable(path.parent)
    except InputError as error:
        raise InputError(
            f"{error}; the verdicts are to be kept there: name a file in another folder with "
            "review.verdicts"
        ) from None
    with VerdictStore(path) as store:
        if given.take or given.export:
            exchange(config, given, store, layers)
        if given.report:
            report(config, store, layers)
        if given.apply or given.labels:
            mend(config, given, store, layers)
        if given.compare:
            compare_results(config, given, layers)
        asked = (given.take, given.export, given.report, given.apply, given.labels, given.compare)
        if not any(asked):
            serve(config, given, store, layers)


def check_options(given: argparse.Namespace) -> None:
    """Refuse options that say nothing without another one, or have a value that makes no sense."""
    if given.hold_back is not None:
        if given.labels is None:
            raise InputError("--hold-back belongs to --labels FOLDER, which is missing")
        if not 0 < given.hold_back < 1:
            raise InputError(
                f"--hold-back {given.hold_back}: a share between 0 and 1 is expected, such as 0.3"
            )
    if given.above is not None:
        if given.apply is None:
            raise InputError("--above belongs to --apply FOLDER, which is missing")
        if not 0 <= given.above <= 1:
            raise InputError(f"--above {given.above}: a score between 0 and 1 is expected")
    if given.on is not None and given.compare is None:
        raise InputError("--on belongs to --compare FOLDER, which is missing")
    if given.compare is not None and given.on is None:
        raise InputError(
            "--compare needs --on FILE: held_back.parquet, which --labels FOLDER --hold-back SHARE "
            "wrote; or a file of --export, if neither network has learned from its verdicts"
        )


def opened_desk(config: Config, store: VerdictStore, layers: Layers) -> Desk:
    """Open the desk, and say how many verdicts do not fit the result."""
    desk = open_desk(config, store, layers.instances)
    loose, verdicts = len(desk.known().loose), len(desk.known().verdicts)
    if loose:
        print(
            f"{loose} of {verdicts} verdicts belong to no synapse of this result: they are about "
            "another volume, or its decoding has changed; they count nowhere",
            file=sys.stderr,
        )
    return desk


def report(config: Config, store: VerdictStore, layers: Layers) -> None:
    """Write how good the result is, and print the main numbers."""
    quality = opened_desk(config, store, layers).quality()
    folder = Path(config.need("predict.output"))
    write_json(folder / "review.json", quality)
    write_text(folder / "review.html", review_page(quality, str(folder)))
    for name, text in NAMES.items():
        one = quality[name]
        said = "not known yet" if one is None else shown_interval(one)
        print(f"{text:<14} {said}")
    print(f"{folder / 'review.json'}\n{folder / 'review.html'}")


def mend(config: Config, given: argparse.Namespace, store: VerdictStore, layers: Layers) -> None:
    """Write a new version of the result, and labels to learn from."""
    # imported here, so that the page opens sooner
    from synpol.blockwise.run import run_image_stage
    from synpol.review.apart import Separation
    from synpol.review.compare import hold_back
    from synpol.review.mend import (
        LabelStage,
        MendStage,
        decide,
        known_boxes,
        real_candidates,
        unknown_boxes,
        voxel_boxes,
        write_mended,
        write_missed,
    )
    from synpol.review.pieces import plan_pieces, rows_of_pieces
    from synpol.review.volumes import polarity_beside

    output = Path(config.need("predict.output"))
    for folder in (given.apply, given.labels):
        if folder is not None and folder.resolve() == output.resolve():
            raise InputError(f"{folder} is predict.output itself; give another folder")
    desk = opened_desk(config, store, layers)
    known, sides, instances = desk.known(), config.decode.sides, layers.instances
    chosen = decide(desk.tables[FOUND], known, given.above or 0.0)
    run = functools.partial(
        run_image_stage,
        block_shape=config.decode.block_shape,
        num_workers=config.workers.num_workers,
        workers=config.workers,
    )
    if given.apply:
        how = Separation.of(config, instances.voxel_size_nm)
        volumes = polarity_beside(instances, join(str(output), "polarity"))
        pieces = plan_pieces(
            desk.tables[FOUND], known, desk.table, volumes, how, chosen.removed, chosen.turned
        )
        stage = MendStage(
            removed=chosen.removed,
            turned=chosen.turned,
            pieces=replace(pieces, left=()),
            how=how,
            polarity=volumes.polarity.path if volumes else "",
        )
        made = run(stage, instances.source, given.apply)
        table = given.apply / desk.table.name
        new = rows_of_pieces(pieces, volumes, desk.table, how)
        count = write_mended(desk.table, table, chosen, sides, pieces, new)
        write_json(given.apply / LEFT, [asdict(one) for one in pieces.left])
        missed = write_missed(given.apply / "missed.parquet", known.missed)
        print(
            f"{count} synapses in {made.path}: {len(chosen.removed)} removed, "
            f"{len(chosen.turned)} turned, {len(pieces.joined)} joined into "
            f"{len({whole for _, whole in pieces.joined})}, {len(pieces.apart)} taken apart into "
            f"{sum(1 + one.more for one in pieces.apart)}; {missed} missed ones in missed.parquet"
        )
        if pieces.left:
            print(
                f"{len(pieces.left)} split or merged ones stay as they are, with place and reason "
                f"in {given.apply / LEFT}"
            )
        if config.connect.segmentation is not None:
            print(f"links: python pipelines/connect.py CONFIG predict.output={given.apply}")
    if given.labels:
        place = np.array(instances.offset_nm), np.array(instances.voxel_size_nm)
        held: list[Verdict] = []
        away: list[Verdict] = []
        if given.hold_back is not None:
            known, held, away = hold_back(desk.tables[FOUND], known, given.hold_back, config.seed)
        judged = decide(desk.tables[FOUND], known)  # what a cutoff removes nobody has seen
        boxes = known_boxes(desk.table, known, judged)
        unknown = unknown_boxes([*known.missed, *real_candidates(known), *away])
        labels = LabelStage(
            removed=judged.removed,
            turned=judged.turned,
            kept=judged.kept,
            sides=sides,
            boxes=voxel_boxes(boxes[:, 0], boxes[:, 1], *place),
            unknown=voxel_boxes(unknown[:, 0], unknown[:, 1], *place),
        )
        made = run(labels, instances.source, given.labels)
        kind = "polarity" if sides else "union"
        print(
            f"{made.path}: for data.train, as truth: {{path: {given.labels / 'truth'}, unknown: "
            f"[{UNKNOWN}]}}, labels: {kind}"
        )
        if given.hold_back is not None:
            path = given.labels / HELD_BACK
            write_parquet(path, held)
            print(f"{len(held)} verdicts are held back, for --compare: {path}")


def compare_results(config: Config, given: argparse.Namespace, layers: Layers) -> None:
    """Say which of two results is better at places that were judged."""
    from synpol.review.compare import Places, compare

    output, other = Path(config.need("predict.output")), given.compare
    here, there = layers.instances, open_image(other / "instances", channels=0)
    check_complete(there)
    if not np.allclose([here.offset_nm, here.end_nm], [there.offset_nm, there.end_nm]):
        raise InputError(
            f"{there.path} covers {there.offset_nm} to {there.end_nm} nm, but {here.path} covers "
            f"{here.offset_nm} to {here.end_nm} nm; predict the same part (predict.roi) with both "
            "networks"
        )
    before, digest = read_found(output / "synapses.parquet")
    after, _ = read_found(other / "synapses.parquet")
    distance = config.review.distance
    places = Places.of(before, digest, read_parquet(given.on), distance)
    if not len(places):
        raise InputError(
            f"{given.on} has no verdict that says whether there is a synapse; judge more places, "
            "or hold back a larger share (--hold-back)"
        )
    found: dict[str, Any] = {"folders": {"before": str(output), "after": str(other)}}
    found |= compare(places, before, after, distance)
    write_json(other / "compare.json", found)
    write_text(other / "compare.html", compare_page(found))
    print(f"{len(places)} places, {found['real']} of them synapses")
    print(f"{'':<14} {'before':<26} after")
    for name in COMPARED:
        said = [shown_interval(found[k][name]) if found[k][name] else "not known" for k in BOTH]
        print(f"{NAMES[name]:<14} {said[0]:<26} {said[1]}")
    print(
        f"only the newer one is right at {found['better']}, only the older one at "
        f"{found['worse']} (p = {found['p']:.2g})"
    )
    print(f"{other / 'compare.json'}\n{other / 'compare.html'}")


def exchange(
    config: Config, given: argparse.Namespace, store: VerdictStore, layers: Layers
) -> None:
    """Import and export verdicts."""
    if given.take:
        state = given.take.suffix.lower() == ".json"
        verdicts = (
            read_state(given.take, reviewer_of(config)) if state else read_parquet(given.take)
        )
        print(f"{store.add(verdicts)} of {len(verdicts)} verdicts are new")
        opened_desk(config, store, layers)
    if given.export:
        verdicts, _ = store.read()
        if given.export.suffix.lower() == ".json":
            write_lines(given.export, standing(verdicts), layers.raw.voxel_size_nm)
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


def serve(config: Config, given: argparse.Namespace, store: VerdictStore, layers: Layers) -> None:
    """Serve the page until Ctrl-C."""
    settings = config.review
    volumes = open_volumes(config, layers)
    desk = opened_desk(config, store, layers)

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
