"""Choose the decoding threshold on data.validation.

Predicts the volume, scores every setting of tune.thres (and tune.thres_small), and writes the best
one as a config overlay, tuned.yaml, into run_dir, with a table and a plot beside it. The volume has
to fit in memory.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import numpy as np
import yaml

from synpol.arrays import join
from synpol.blockwise.predict import predict_blockwise
from synpol.blockwise.records import write_whole
from synpol.command import run_command, write_json
from synpol.config import Config
from synpol.errors import InputError
from synpol.evaluation import truth_instances
from synpol.training.checkpoint import find_checkpoint
from synpol.training.volumes import open_volume
from synpol.tuning import best, plot, sweep


def main(config: Config, given: argparse.Namespace) -> None:
    validation = config.data.validation
    if validation is None:
        raise InputError("data.validation is not set; name a volume that was not trained on")
    # these say which part of the volume to predict is wanted, and this is another volume
    whole = config.predict.model_copy(update={"roi": None, "mask": None})
    config = config.model_copy(update={"predict": whole})
    labels = validation.labels
    volume = open_volume(validation, config.data.intensity_range)
    output = join(config.run_dir, "validation")
    polarity = predict_blockwise(config, volume.raw.path, output, find_checkpoint(config))
    truth = truth_instances(np.asarray(volume.truth.array[:]), labels, config.decode.dilate_sz)
    settings = sweep(np.asarray(polarity.array[:]), truth, config, labels)
    chosen = best(settings)
    run_dir = Path(config.run_dir)
    write_json(run_dir / "tune.json", [asdict(s) for s in settings])
    plot(settings, run_dir / "tune.png", config.tune.iou)
    overlay: dict[str, dict[str, float]] = {"decode": {"thres": chosen.thres}}
    if config.tune.thres_small:
        overlay["decode"]["thres_small"] = chosen.thres_small
    comment = f"# validation F1 {chosen.f1:.3f} at IoU {config.tune.iou:g}\n"
    write_whole(run_dir / "tuned.yaml", (comment + yaml.safe_dump(overlay)).encode())
    print(
        f"thres {chosen.thres}, thres_small {chosen.thres_small}: validation F1 {chosen.f1:.3f} "
        f"at IoU {config.tune.iou:g}; written to {run_dir / 'tuned.yaml'}"
    )


if __name__ == "__main__":
    run_command(main, __doc__)
