"""Write the report of a result: one self-contained HTML file with pictures, scores and curves."""

from __future__ import annotations

import csv
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa

from synpol.config import Config
from synpol.errors import InputError
from synpol.files import join, write_text
from synpol.images.image import Image, open_image, shifted
from synpol.polarity import Channels
from synpol.report import figures, gallery
from synpol.report.gallery import MISSED
from synpol.report.review_page import review_part
from synpol.synapses.link_forms import links_of
from synpol.synapses.reading import read_table
from synpol.synapses.table import confidence
from synpol.training.log import read_log

_log = logging.getLogger(__name__)

#: largest side of a picture of a section, voxels
CROP = 640
#: fewest scored synapses for the curves over their scores
FEWEST_SCORED = 20


def write_report(
    config: Config,
    output: str,
    scores: Mapping[str, Any],
    path: Path,
    correct: Mapping[int, bool] | None = None,
    missed: Mapping[int, int] | None = None,
    link_of: Callable[[Sequence[float]], str] | None = None,
    review: Mapping[str, Any] | None = None,
) -> None:
    """Write the report of a result to an HTML file, whole or not at all; see `report_page`."""
    page = report_page(config, output, scores, correct, missed, link_of, review)
    write_text(path, page)


def report_page(
    config: Config,
    output: str,
    scores: Mapping[str, Any],
    correct: Mapping[int, bool] | None = None,
    missed: Mapping[int, int] | None = None,
    link_of: Callable[[Sequence[float]], str] | None = None,
    review: Mapping[str, Any] | None = None,
) -> str:
    """Make the report of a result, which is one HTML page.

    Parameters
    ----------
    config : Config
        Configuration of the result.
    output : path
        Container with ``polarity`` and ``instances``.
    scores : mapping
        Content of ``scores.json``.
    correct : mapping of int to bool, optional
        Whether each predicted synapse is right at IoU 0.5, by its number; synapses that were not
        scored are absent.
    missed : mapping of int to int, optional
        Number of voxels of each true synapse that was not found at IoU 0.5, by its number.
    link_of : callable, optional
        Function that returns the address of a position (z, y, x; nm) in the scene.
    review : mapping, optional
        What verdicts of reviewers say about the result.

    Raises
    ------
    InputError
        An image or a file of ``evaluate.compare`` cannot be read.
    """
    template = jinja2.Environment(autoescape=True).from_string(
        files("synpol.report").joinpath("report.html").read_text()
    )
    sides = config.decode.sides
    names = list(next(iter(scores["iou"].values())))
    compared = {
        str(Path(other).parent): _compared(other, names[0]) for other in config.evaluate.compare
    }
    path_of_table = Path(join(output, "synapses.parquet"))
    table = read_table(path_of_table) if path_of_table.is_file() else None
    pictures = _gallery(config, output, table, correct or {}, missed or {}, link_of)
    log = list(read_log(Path(config.run_dir) / "log.csv"))
    return template.render(
        title=output,
        run_dir=config.run_dir,
        written=time.strftime("%Y-%m-%d %H:%M"),
        sections=_sections(config, output, sides),
        sides=sides,
        scores=scores["iou"],
        intervals=scores["f1_interval"],
        protocols=scores.get("protocols", {}),
        unknown=scores.get("unknown"),
        review=None if review is None else review_part(review),
        score_figures=_score_figures(table, correct or {}, scores["iou"]["0.5"][names[0]]["truth"])
        if table is not None and "0.5" in scores["iou"]
        else [],
        connection_figure=_connection_figure(path_of_table, config.connect.min_score),
        gallery=pictures,
        hidden=0 if MISSED in pictures else len(missed or {}),
        linked=link_of is not None,
        score_names=names,
        compared=compared,
        score_figure=figures.data_uri(figures.score_curves(scores)),
        training_figure=figures.data_uri(figures.training_curves(log)) if len(log) > 1 else None,
        iterations=len(log),
        timings=_timings(Path(config.run_dir) / "timings.csv"),
        settings={
            "thres": config.decode.thres,
            "thres_small": config.decode.thres_small,
            "dilate_sz": config.decode.dilate_sz,
            "min_size": config.evaluate.min_size,
        },
    )


def _score_figures(table: pa.Table, correct: Mapping[int, bool], truth: int) -> list[str]:
    """Draw how well the scores tell right from wrong synapses, unless too few were scored."""
    numbers = table["synapse_id"].to_pylist()
    scored = [
        (value, correct[number])
        for number, value in zip(numbers, confidence(table).tolist(), strict=True)
        if number in correct and not np.isnan(value)
    ]
    if len(scored) < FEWEST_SCORED:
        return []
    score, right = np.array(scored).T
    curves = (figures.calibration(score, right > 0), figures.cutoff_curves(score, right > 0, truth))
    return [figures.data_uri(figure) for figure in curves]


def _connection_figure(table: Path, min_score: float) -> str | None:
    """Draw how many connections there are over the score, where links are known."""
    try:
        links = links_of(table) if table.is_file() else None
    except InputError as error:  # of an earlier decoding
        _log.warning("the report shows no connections: %s", error)
        return None
    if links is None:
        return None
    rows = read_table(links, ["pre_id", "post_id", "score", "duplicate_of"])
    return figures.data_uri(figures.connection_curve(rows, min_score)) if len(rows) else None


def _gallery(
    config: Config,
    output: str,
    table: pa.Table | None,
    correct: Mapping[int, bool],
    missed: Mapping[int, int],
    link_of: Callable[[Sequence[float]], str] | None,
) -> dict[str, list[dict[str, str | None]]]:
    """Draw single synapses; returns title, picture and link of each, by kind."""
    if table is None or config.evaluate.truth is None:
        return {}
    instances = open_image(join(output, "instances"), channels=0)
    raw = open_image(config.need_image("predict.raw"), channels=0)
    truth = open_image(config.evaluate.truth, channels=0)
    begin_in_raw = raw.place_of(instances, "the image")
    begin_in_truth = truth.place_of(instances, "the truth")
    sides = config.decode.sides
    largest = dict(list(missed.items())[: gallery.COUNT])
    positions = gallery.centroids(truth, largest, begin_in_truth, instances.shape_vx, sides)
    source = raw, begin_in_raw
    labels = [(instances, (0, 0, 0)), (truth, begin_in_truth)]
    return {
        kind: [
            {
                "title": synapse.title,
                "image": gallery.picture(instances, synapse.position, source, labels, sides),
                "link": link_of(synapse.position) if link_of else None,
            }
            for synapse in synapses
        ]
        for kind, synapses in gallery.choose(table, correct, positions).items()
    }


def _compared(path: str, score: str) -> dict[str, Any]:
    """Read the ``scores.json`` of another result, which has to hold the same kind of score."""
    try:
        scores = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"evaluate.compare: {path} cannot be read: {error}") from None
    try:
        for kinds in scores["iou"].values():
            float(kinds[score]["f1"])
    except (KeyError, TypeError, AttributeError):
        raise InputError(
            f"evaluate.compare: {path} does not hold scores of {score!r} as this result has; the "
            "scores.json of a run with the same kind of labels is expected"
        ) from None
    return dict(scores)


def _timings(path: Path) -> list[tuple[str, str]]:
    """Read the commands of ``timings.csv`` and their seconds."""
    if not path.exists():
        return []
    with open(path, newline="", errors="replace") as file:
        rows = csv.reader(line.replace("\0", "") for line in file)
        return [(" ".join(row[:-1]), row[-1]) for row in rows if len(row) > 1]


def _sections(config: Config, output: str, sides: bool) -> list[dict[str, str]]:
    """Draw three sections with many synapses, far from each other; returns titles and pictures."""
    raw = open_image(config.need_image("predict.raw"), channels=0)
    instances = open_image(join(output, "instances"), channels=0)
    polarity = open_image(join(output, "polarity"), channels=Channels.count)
    begin_in_raw = raw.place_of(instances, "the image")
    truth = open_image(config.evaluate.truth, channels=0) if config.evaluate.truth else None
    begin_in_truth = (0, 0, 0) if truth is None else truth.place_of(instances, "the truth")
    pictures = []
    for z, crop in busiest_sections(truth or instances, 3, begin_in_truth, instances.shape_vx):
        section = _section(raw, z, crop, begin_in_raw)
        labels = np.asarray(instances.array[z, *crop])
        probability = np.asarray(polarity.array[:, z, *crop])
        if probability.dtype.kind == "f":
            probability = probability * 255
        columns = [
            ("raw", figures.grey(section)),
            (
                "prediction",
                figures.with_polarity(section, probability, config.exclusive, sides),
            ),
            ("instances", figures.with_instances(section, labels, sides)),
        ]
        if truth is not None:
            true_labels = _section(truth, z, crop, begin_in_truth).astype(np.uint64)
            columns.append(("truth", figures.with_instances(section, true_labels, sides)))
        figure = figures.panel(columns, {2: labels} if sides else None)
        pictures.append({"title": f"section {z}", "image": figures.data_uri(figure)})
    return pictures


def _section(image: Image, z: int, crop: tuple[slice, slice], begin: Sequence[int]) -> np.ndarray:
    """Read part of a section, (y, x); `z` and `crop` count from voxel `begin` of the image."""
    return np.asarray(image.array[shifted((slice(z, z + 1), *crop), begin)])[0]


def busiest_sections(
    labels: Image,
    count: int,
    begin: Sequence[int] = (0, 0, 0),
    shape: Sequence[int] | None = None,
) -> list[tuple[int, tuple[slice, slice]]]:
    """Find sections with much foreground, spread over the volume, and the part of each to show.

    Parameters
    ----------
    labels : Image
        Label volume.
    count : int
        Number of sections.
    begin, shape : 3 ints
        First voxel and shape of the part of the volume to search; by default the whole volume.

    Returns
    -------
    list of (z, (slice in y, slice in x))
        Sections in ascending order; voxels count from `begin`.
    """
    depth, height, width = shape or labels.shape_vx
    chosen = []
    for part in np.array_split(np.arange(depth), min(count, depth)):
        sampled = part[:: max(1, len(part) // 16)]
        y, x = (slice(0, min(n, 4 * CROP)) for n in (height, width))
        sections = [_section(labels, int(z), (y, x), begin) for z in sampled]
        fullest = int(np.argmax([np.count_nonzero(section) for section in sections]))
        z = int(sampled[fullest])
        foreground = np.argwhere(sections[fullest] != 0)
        centre = np.median(foreground, axis=0).astype(int) if len(foreground) else np.array([0, 0])
        crop = []
        for middle, size in zip(centre, (height, width), strict=True):
            first = int(np.clip(middle - CROP // 2, 0, max(0, size - CROP)))
            crop.append(slice(first, min(size, first + CROP)))
        chosen.append((z, (crop[0], crop[1])))
    return chosen
