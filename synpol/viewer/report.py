"""The report: one self-contained HTML file that a person wants to look at."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow.parquet as pq

from synpol.arrays import Image, join, open_image, shifted
from synpol.config import Config
from synpol.errors import InputError
from synpol.viewer import figures

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
        Predicted synapses that were scored: whether each is polarity-correct at IoU 0.5.
    """
    from synpol.training.loop import read_log

    template = jinja2.Environment(autoescape=True).from_string(
        files("synpol.viewer").joinpath("report.html").read_text()
    )
    sides = config.decode.sides
    names = list(next(iter(scores["iou"].values())))
    compared = {
        str(Path(other).parent): _compared(other, names[0]) for other in config.evaluate.compare
    }
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
        calibration_figure=_calibration(join(output, "synapses.parquet"), correct or {}),
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


def _calibration(table: str, correct: Mapping[int, bool]) -> str | None:
    """Share of correct synapses over the score in the table; None where there is too little."""
    if not Path(table).exists():
        return None
    rows = pq.read_table(table, columns=["synapse_id", "pre_score", "post_score"]).to_pydict()
    scored = [
        (min(pre, post), correct[number])
        for number, pre, post in zip(*rows.values(), strict=True)
        if number in correct and pre is not None and post is not None
    ]
    if len(scored) < FEW:
        return None
    score, good = np.array(scored).T
    return figures.data_uri(figures.calibration(score, good > 0))


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
