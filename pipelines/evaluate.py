"""Score a result against the truth, and write the report.

Reads predict.output/instances and evaluate.truth; writes scores.json (for programs) and report.html
(for people) into predict.output.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from synpol.blockwise.records import work_folder
from synpol.command import run_command
from synpol.config import Config
from synpol.decoding.dilation import checked_box
from synpol.errors import InputError
from synpol.evaluation.overlaps import evaluate_blockwise
from synpol.files import is_url, join, write_json, write_text
from synpol.images.claim import SETTINGS, check_complete
from synpol.images.image import Image, check_readable, open_image
from synpol.images.labels import check_truth, open_labels
from synpol.images.marks import MARKS
from synpol.prediction.roi import roi_of
from synpol.report.report import report_page
from synpol.review.opening import quality_of
from synpol.scene.links import position_link


def main(config: Config, given: argparse.Namespace) -> None:
    output, truth = config.need("predict.output"), config.need_image("evaluate.truth")
    if is_url(output):
        raise InputError("scores.json and the report are written to a local folder only so far")
    if config.decode.sides != (config.evaluate.labels == "polarity"):
        raise InputError(
            f"evaluate.labels is {config.evaluate.labels}, but decode.sides is "
            f"{str(config.decode.sides).lower()}; a truth without sides (union) is compared with "
            "instances without sides"
        )
    instances = open_image(join(output, "instances"), channels=0)
    true = open_labels(truth, config.evaluate.labels, instances, marked=True)
    for image in (instances, true):
        check_complete(image)
        check_readable(image)
    check_settings(config, instances)
    check_truth(true, config.evaluate.labels)
    check_covered(instances, true)
    # the report does not search it again for what means background
    shown = true.without(MARKS) if true.is_marked else true
    searched = config.evaluate.model_copy(update={"truth": shown.source})
    config = config.model_copy(update={"evaluate": searched})
    work = work_folder(output, config.workers.work_dir)
    protocols = protocol_scores(config, instances, true)
    evaluation = evaluate_blockwise(
        instances,
        true,
        config.evaluate.labels,
        config.evaluate.min_size,
        config.decode.dilate_sz,
        block_shape=config.decode.block_shape,
        work_dir=work,
        num_workers=config.workers.num_workers,
        workers=config.workers,
    )
    scores = evaluation.to_json(config.evaluate.iou)
    if protocols:
        scores["protocols"] = protocols
    port = config.view.port
    page = report_page(
        config,
        output,
        scores,
        evaluation.correct(),
        evaluation.missed(),
        (lambda position: position_link(port, position)) if port else None,
        quality_of(config, instances),
    )
    write_json(Path(output) / "scores.json", scores)
    write_text(Path(output) / "report.html", page)
    print(f"{'IoU':>5}  {'score':<17} precision  recall     F1  (95 %)")
    for iou, kinds in scores["iou"].items():
        for name, s in kinds.items():
            low, high = scores["f1_interval"][iou][name]
            print(
                f"{iou:>5}  {name:<17} {s['precision']:9.3f} {s['recall']:7.3f} {s['f1']:6.3f}  "
                f"{low:.2f}..{high:.2f}"
            )
    for name, counts in protocols.items():
        said = (f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in counts.items())
        print(f"{name}: {', '.join(said)}")
    if unknown := scores.get("unknown"):
        print(
            f"not scored: {unknown['voxels']} voxels that are unknown, and what was found there "
            f"({unknown['predicted']} synapses)"
        )
    print(f"{join(output, 'scores.json')}\n{join(output, 'report.html')}")


def check_covered(instances: Image, truth: Image) -> None:
    """Refuse a truth of a part of the result, and say how to predict that part alone."""
    try:
        truth.place_of(instances, "the truth")
    except InputError as error:
        try:
            begin = instances.place_of(truth, "the result")
        except InputError:
            raise error from None
        roi = roi_of(instances.part(begin, truth.shape_vx))
        raise InputError(
            f"{error}. To score that part, predict it alone, into another folder: "
            f"'predict.roi={{offset: {list(roi.offset)}, shape: {list(roi.shape)}}}' "
            "predict.output=FOLDER"
        ) from None


def protocol_scores(config: Config, instances: Image, truth: Image) -> dict[str, dict[str, Any]]:
    """Scores by the protocols of others, which look at whole volumes."""
    wanted = config.evaluate.protocols
    if not wanted:
        return {}
    if truth.is_marked:
        raise InputError(
            f"evaluate.protocols {wanted} score whole volumes, but voxels of {truth.path} are "
            "unknown (`unknown`, `known` or `sides_unknown` of its source); leave one of both out"
        )
    from synpol.evaluation.protocols import cremi_partners, lin2020

    predicted, true = np.asarray(instances.array[:]), truth.part_like(instances, "the truth")
    scores: dict[str, dict[str, Any]] = {}
    if "lin2020" in wanted:
        margin = config.evaluate.lin2020_margin
        scores["lin2020"] = asdict(lin2020(predicted, true, margin=margin))
    if "cremi-partners" in wanted:
        source = config.need_image("evaluate.segmentation")
        neurons = open_labels(source, "ids", instances)
        segments = neurons.part_like(instances, "evaluate.segmentation")
        found = cremi_partners(predicted, true, segments, instances.voxel_size_nm)
        scores["cremi-partners"] = found.scores()
    return scores


def check_settings(config: Config, instances: Image) -> None:
    """Refuse instances that were decoded otherwise than the config says."""
    stored = instances.array.attrs.get(SETTINGS)
    if not isinstance(stored, dict):
        return
    if stored["semantic"]:
        raise InputError(f"{instances.path} is semantic: 1 and 2 on sides, without synapses")
    for key in ("sides", "thres", "thres_small", "dilate_sz"):
        said, wanted = stored[key], getattr(config.decode, key)
        if key == "dilate_sz":
            said, wanted = checked_box(said), checked_box(wanted)
        if said != wanted:
            raise InputError(
                f"{instances.path} was decoded with {key} = {said}, the config has "
                f"decode.{key} = {wanted}; give the same config files as to "
                "pipelines/predict_blockwise.py"
            )


if __name__ == "__main__":
    run_command(main, __doc__)
