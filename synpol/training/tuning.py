"""The choice of the decoder's options, on a volume of the training side.

The volume is predicted once; every setting decodes the same probabilities, and settings share what
they have in common: the sides' components of a threshold, the dilated union of a threshold and box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
