"""The choice of the decoder's options, on a volume of the training side.

The volume is predicted once; every setting decodes the same probabilities, and settings share what
they have in common: the sides' components of a threshold, the dilated union of a threshold and box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from synpol.config import Config
from synpol.decoding.reference import Foreground, threshold_of
from synpol.evaluation.scores import Evaluation, truth_instances
from synpol.polarity import LabelKind


@dataclass(frozen=True)
class Setting:
    """One setting of the decoder and its score.

    Attributes
    ----------
    thres : float
    dilate_sz, thres_small : int
    f1 : float
        At the IoU of the sweep: polarity-correct, or of whole synapses where sides are unknown.
    precision, recall : float
    """

    thres: float
    dilate_sz: int
    thres_small: int
    f1: float
    precision: float
    recall: float


def sweep(
    polarity: np.ndarray, truth: np.ndarray, config: Config, labels: LabelKind
) -> list[Setting]:
    """Score every setting of ``config.tune``.

    Parameters
    ----------
    polarity : (3, z, y, x) uint8 array
    truth : (z, y, x) array
        Labels; a mask is labelled anew for every box, as `truth_instances` does.
    config : Config
    labels : {"polarity", "union"}

    Returns
    -------
    list of Setting
        In the order of the config.
    """
    options, tune = config.decode, config.tune
    name = "polarity_correct" if labels == "polarity" else "synapse"
    boxes, smalls = choices(config)
    instances_of = {box: truth_instances(truth, labels, box) for box in boxes}
    thresholds = [options.thres] if config.exclusive else tune.thres
    found = []
    total = len(thresholds) * len(boxes) * len(smalls)
    with tqdm(total=total, desc="tune", unit="setting", leave=False) as bar:
        for thres in thresholds:
            threshold = threshold_of(polarity.dtype, thres, config.exclusive, full_scale=True)
            foreground = Foreground.of(polarity, threshold, labels == "polarity")
            for dilate_sz in boxes:
                synapses = foreground.synapses(dilate_sz)
                for small in smalls:
                    instances = foreground.instances(synapses, small)
                    parts = [(instances, instances_of[dilate_sz])]
                    evaluation = Evaluation.of(parts, labels, config.evaluate.min_size)
                    match = evaluation.score(tune.iou)[name]
                    scores = match.f1, match.precision, match.recall
                    found.append(Setting(thres, dilate_sz, small, *scores))
                    bar.update()
    return found


def choices(config: Config) -> tuple[list[int], list[int]]:
    """The boxes of the dilation and the minimum sizes that are tried."""
    tune, options = config.tune, config.decode
    return tune.dilate_sz or [options.dilate_sz], tune.thres_small or [options.thres_small]


def best(settings: Sequence[Setting]) -> Setting:
    """The setting with the highest F1; the first of equals."""
    return max(settings, key=lambda s: s.f1)


def plot(settings: Sequence[Setting], path: Path, iou: float) -> None:
    """F1 over the threshold, a line for each box and minimum size; precision and recall of one."""
    from synpol.report.figures import new_figure

    figure, axes = new_figure(6, 4)
    lines = sorted({(s.dilate_sz, s.thres_small) for s in settings})
    for line in lines:
        here = [s for s in settings if (s.dilate_sz, s.thres_small) == line]
        thres = [s.thres for s in here]
        label = "F1, dilate_sz {}, thres_small {}".format(*line)
        axes.plot(thres, [s.f1 for s in here], "o-", label=label)
        if len(lines) == 1:
            axes.plot(thres, [s.precision for s in here], "--", label="precision")
            axes.plot(thres, [s.recall for s in here], ":", label="recall")
    axes.set(xlabel="thres", ylabel=f"validation, IoU {iou:g}", ylim=(0, 1))
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=100)
