"""The choice of the decoding threshold, on a volume of the training side.

The volume is predicted once; every setting decodes the same probabilities.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from synpol.config import Config
from synpol.decoding import polarity2instance
from synpol.evaluation import Evaluation, Labels


@dataclass(frozen=True)
class Setting:
    """One setting of the decoder and its score.

    Attributes
    ----------
    thres : float
    thres_small : int
    f1 : float
        At the IoU of the sweep: polarity-correct, or of whole synapses where sides are unknown.
    precision, recall : float
    """

    thres: float
    thres_small: int
    f1: float
    precision: float
    recall: float


def sweep(polarity: np.ndarray, truth: np.ndarray, config: Config, labels: Labels) -> list[Setting]:
    """Score every setting of ``config.tune``.

    Parameters
    ----------
    polarity : (3, z, y, x) array
    truth : (z, y, x) array
        Instances: 2n-1 / 2n, or n where `labels` is "union".
    config : Config
    labels : {"polarity", "union"}

    Returns
    -------
    list of Setting
        In the order of the config.
    """
    options, tune = config.decode, config.tune
    name = "polarity_correct" if labels == "polarity" else "synapse"
    found = []
    settings = list(itertools.product(tune.thres, tune.thres_small or [options.thres_small]))
    for thres, small in tqdm(settings, desc="tune", unit="setting", leave=False):
        instances = polarity2instance(
            polarity,
            thres=thres,
            thres_small=small,
            dilate_sz=options.dilate_sz,
            exclusive=config.exclusive,
            sides=labels == "polarity",
        )
        evaluation = Evaluation.of([(instances, truth)], labels, config.evaluate.min_size)
        match = evaluation.score(tune.iou)[name]
        found.append(Setting(thres, small, match.f1, match.precision, match.recall))
    return found


def best(settings: Sequence[Setting]) -> Setting:
    """The setting with the highest F1; the first of equals."""
    return max(settings, key=lambda s: s.f1)


def plot(settings: Sequence[Setting], path: Path, iou: float) -> None:
    """F1, precision and recall over the threshold, a line for each minimum size."""
    from synpol.viewer.figures import new_figure

    figure, axes = new_figure(6, 4)
    for small in sorted({s.thres_small for s in settings}):
        here = [s for s in settings if s.thres_small == small]
        thres = [s.thres for s in here]
        axes.plot(thres, [s.f1 for s in here], "o-", label=f"F1, thres_small {small}")
        if len(here) == len(settings):
            axes.plot(thres, [s.precision for s in here], "--", label="precision")
            axes.plot(thres, [s.recall for s in here], ":", label="recall")
    axes.set(xlabel="thres", ylabel=f"validation, IoU {iou:g}", ylim=(0, 1))
    axes.legend()
    figure.savefig(path, dpi=100)
