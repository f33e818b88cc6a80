"""Choose the decoder's options on the validation volume.

The volume is predicted once, and every setting decodes the same probabilities. Settings of one
threshold share the components of the sides; those of one threshold and one box of the dilation
share the dilated union.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from synpol.config import Config
from synpol.decoding.dilation import Box, checked_box
from synpol.decoding.reference import Foreground, threshold_of
from synpol.evaluation.scores import Evaluation, truth_instances
from synpol.polarity import LabelKind


@dataclass(frozen=True)
class Setting:
    """A setting of the decoder and its score.

    Attributes
    ----------
    thres : float
        Threshold of the probabilities, 0..1.
    dilate_sz : int or 3 ints
        Box of the dilation, voxels; see `synpol.decoding.dilation.Box`.
    thres_small : int
        Minimum size of a side, in voxels.
    f1, precision, recall : float
        Scores at the IoU of ``tune.iou``: polarity-correct, or of whole synapses where the sides
        are unknown.
    """

    thres: float
    dilate_sz: Box
    thres_small: int
    f1: float
    precision: float
    recall: float


def sweep(
    polarity: np.ndarray,
    truth: np.ndarray,
    config: Config,
    labels: LabelKind,
    marked: bool = False,
) -> list[Setting]:
    """Score every setting of ``config.tune``.

    Parameters
    ----------
    polarity : (3, z, y, x) uint8 array
    truth : (z, y, x) array
        Labels; `truth_instances` labels a mask anew for every box.
    config : Config
        Config with the sections ``tune``, ``decode`` and ``evaluate``.
    labels : {"polarity", "union"}
        What the labels mark: sides of synapses, or synapses without sides.
    marked : bool
        Whether the labels have marks; see `synpol.images.marks`.

    Returns
    -------
    list of Setting
        Settings in the order of the config.
    """
    options, tune = config.decode, config.tune
    name = "polarity_correct" if labels == "polarity" else "synapse"
    boxes, smalls = choices(config)
    instances_of = {box: truth_instances(truth, labels, box, marked) for box in boxes}
    thresholds = [options.thres] if config.exclusive else tune.thres
    scored = []
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
                    evaluation = Evaluation.of(parts, labels, config.evaluate.min_size, marked)
                    match = evaluation.score(tune.iou)[name]
                    scores = match.f1, match.precision, match.recall
                    scored.append(Setting(thres, dilate_sz, small, *scores))
                    bar.update()
    return scored


def choices(config: Config) -> tuple[list[Box], list[int]]:
    """Return the boxes of the dilation and the minimum sizes to try."""
    tune, options = config.tune, config.decode
    boxes = tune.dilate_sz or [options.dilate_sz]
    return [checked_box(box) for box in boxes], tune.thres_small or [options.thres_small]


def best(settings: Sequence[Setting]) -> Setting:
    """Return the setting with the highest F1; of equal ones the first."""
    return max(settings, key=lambda s: s.f1)
