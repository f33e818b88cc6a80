"""The report: one self-contained HTML file that a person wants to look at."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from synpol.config import Config
from synpol.errors import InputError
from synpol.files import join
from synpol.images.image import Image, open_image, shifted
from synpol.report import figures, gallery
from synpol.report.gallery import MISSED
from synpol.synapses.table import confidence
from synpol.training.log import read_log

#: largest side of a picture of a section, voxels
CROP = 640
#: with fewer synapses than this nothing can be said about their scores
FEW = 20


def write_report(
    config: Config,
    output: str,
    scores: Mapping[str, Any],
    path: Path,
    correct: Mapping[int, bool] | None = None,
    missed: Mapping[int, int] | None = None,
    link_of: Callable[[Sequence[float]], str] | None = None,
) -> None:
    """Write the report of a result.

    Parameters
    ----------
    config : Config
    output : path
        Container with polarity and instances.
    scores : mapping
        Content of ``scores.json``.
    path : Path
        Of the HTML file.
    correct : mapping of int to bool, optional
        Predicted synapses that were scored: whether each is right at IoU 0.5.
    missed : mapping of int to int, optional
        True synapses that were not found at IoU 0.5, and their voxels.
    link_of : callable, optional
        Address of a place (z, y, x; nm) in the scene.
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
    table = pq.read_table(path_of_table) if path_of_table.is_file() else None
    shown = _gallery(config, output, table, correct or {}, missed or {}, link_of)
    log = list(read_log(Path(config.run_dir) / "log.csv"))
    page = template.render(
        title=output,
        run_dir=config.run_dir,
        written=time.strftime("%Y-%m-%d %H:%M"),
        sections=_sections(config, output, sides),
        sides=sides,
        scores=scores["iou"],
        intervals=scores["f1_interval"],
        protocols=scores.get("protocols", {}),
        score_figures=_score_figures(table, correct or {}, scores["iou"]["0.5"][names[0]]["truth"])
        if table is not None and "0.5" in scores["iou"]
        else [],
        gallery=shown,
        hidden=0 if MISSED in shown else len(missed or {}),
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
    path.write_text(page)


def _score_figures(table: pa.Table, correct: Mapping[int, bool], truth: int) -> list[str]:
    """What the score in the table is worth; nothing where there is too little to tell."""
    numbers = table["synapse_id"].to_pylist()
    scored = [
        (value, correct[number])
        for number, value in zip(numbers, confidence(table).tolist(), strict=True)
        if number in correct and not np.isnan(value)
    ]
    if len(scored) < FEW:
        return []
    score, good = np.array(scored).T
    drawn = (figures.calibration(score, good > 0), figures.cutoff_curves(score, good > 0, truth))
    return [figures.data_uri(figure) for figure in drawn]


def _gallery(
    config: Config,
    output: str,
    table: pa.Table | None,
    correct: Mapping[int, bool],
    missed: Mapping[int, int],
    link_of: Callable[[Sequence[float]], str] | None,
) -> dict[str, list[dict[str, str | None]]]:
    """Pictures of single synapses, by kind."""
    if table is None or config.evaluate.truth is None:
        return {}
    instances = open_image(join(output, "instances"), channels=0)
    raw = open_image(config.need("predict.raw"), channels=0)
    truth = open_image(config.evaluate.truth, channels=0)
    before = raw.place_of(instances, "the image")
    true_before = truth.place_of(instances, "the truth")
    sides = config.decode.sides
    lost = dict(list(missed.items())[: gallery.COUNT])
    places = gallery.places_of(truth, lost, true_before, instances.shape_vx, sides)
    labels = [(instances, (0, 0, 0)), (truth, true_before)]
    return {
        kind: [
            {
                "title": synapse.title,
                "image": gallery.picture(instances, synapse.place, (raw, before), labels, sides),
                "link": link_of(synapse.place) if link_of else None,
            }
            for synapse in synapses
        ]
        for kind, synapses in gallery.choose(table, correct, places).items()
    }


def _compared(path: str, score: str) -> dict[str, Any]:
    try:
        found = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"evaluate.compare: {path} cannot be read: {error}") from None
    try:
        for kinds in found["iou"].values():
            float(kinds[score]["f1"])
    except (KeyError, TypeError, AttributeError):
        raise InputError(
            f"evaluate.compare: {path} does not hold scores of {score!r} as this result has; the "
            "scores.json of a run with the same kind of labels is expected"
        ) from None
    return dict(found)


def _timings(path: Path) -> list[tuple[str, str]]:
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return [(" ".join(row[:-1]), row[-1]) for row in csv.reader(file) if len(row) > 1]


def _sections(config: Config, output: str, sides: bool) -> list[dict[str, str]]:
    """Three sections with many synapses, far from each other."""
    raw = open_image(config.need("predict.raw"), channels=0)
    instances = open_image(join(output, "instances"), channels=0)
    polarity = open_image(join(output, "polarity"), channels=3)
    before = raw.place_of(instances, "the image")
    truth = open_image(config.evaluate.truth, channels=0) if config.evaluate.truth else None
    true_before = (0, 0, 0) if truth is None else truth.place_of(instances, "the truth")
    chosen = []
    for z, where in busiest_sections(truth or instances, 3, true_before, instances.shape_vx):
        section = _section(raw, z, where, before)
        labels = np.asarray(instances.array[z, *where])
        probability = np.asarray(polarity.array[:, z, *where])
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
            real = _section(truth, z, where, true_before).astype(np.uint64)
            columns.append(("truth", figures.with_instances(section, real, sides)))
        figure = figures.panel(columns, {2: labels} if sides else None)
        chosen.append({"title": f"section {z}", "image": figures.data_uri(figure)})
    return chosen


def _section(image: Image, z: int, where: tuple[slice, slice], begin: Sequence[int]) -> np.ndarray:
    """Part of a section, (y, x), at a place that is told from voxel `begin` on."""
    return np.asarray(image.array[shifted((slice(z, z + 1), *where), begin)])[0]


def busiest_sections(
    labels: Image,
    count: int,
    begin: Sequence[int] = (0, 0, 0),
    shape: Sequence[int] | None = None,
) -> list[tuple[int, tuple[slice, slice]]]:
    """Sections with much foreground, spread over the volume, and where to look at them.

    Parameters
    ----------
    labels : Image
    count : int
        Of sections.
    begin, shape : 3 ints
        The part of the labels that is looked at, voxels; places are told from there. By default
        all of it.

    Returns
    -------
    list of (z, (slice in y, slice in x))
        Ascending in z.
    """
    depth, height, width = shape or labels.shape_vx
    found = []
    for part in np.array_split(np.arange(depth), min(count, depth)):
        looked_at = part[:: max(1, len(part) // 16)]
        y, x = (slice(0, min(n, 4 * CROP)) for n in (height, width))
        sections = [_section(labels, int(z), (y, x), begin) for z in looked_at]
        fullest = int(np.argmax([np.count_nonzero(section) for section in sections]))
        z = int(looked_at[fullest])
        there = np.argwhere(sections[fullest] != 0)
        centre = np.median(there, axis=0).astype(int) if len(there) else np.array([0, 0])
        where = []
        for middle, size in zip(centre, (height, width), strict=True):
            first = int(np.clip(middle - CROP // 2, 0, max(0, size - CROP)))
            where.append(slice(first, min(size, first + CROP)))
        found.append((z, (where[0], where[1])))
    return found
