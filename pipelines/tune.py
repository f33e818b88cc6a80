"""Choose the decoder's threshold on the volume of data.validation.

It predicts the volume and scores every setting of tune.thres (and of tune.dilate_sz and
tune.thres_small where they are given). Into run_dir it writes the best setting as a config overlay,
tuned.yaml, with all scores (tune.json) and their curves (tune.png). Where every F1 is 0 it says so,
and tuned.yaml keeps the settings of the config. The volume has to fit into memory.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import yaml

from synpol.command import run_command
from synpol.config import Config
from synpol.files import whole_file, write_json
from synpol.model.trained import find_checkpoint
from synpol.report.figures import threshold_curves
from synpol.training.tuning import best, sweep
from synpol.training.validation import ValidationVolume


def settings_of(source: object, keys: list[str]) -> dict[str, object]:
    """Return the values of some keys as YAML writes them."""
    values = {key: getattr(source, key) for key in keys}
    return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}


def main(config: Config, given: argparse.Namespace) -> None:
    volume = ValidationVolume.of(config)
    polarity, truth = volume.predict(find_checkpoint(config)), volume.truth()
    marked = volume.opened.truth.is_marked
    settings = sweep(np.asarray(polarity.array[:]), truth, config, volume.labels, marked)
    chosen = best(settings)
    run_dir = Path(config.run_dir)
    write_json(run_dir / "tune.json", [asdict(s) for s in settings])
    threshold_curves(settings, config.tune.iou).savefig(run_dir / "tune.png", dpi=100)
    tried = ["thres"] + [k for k in ("dilate_sz", "thres_small") if getattr(config.tune, k)]
    overlay = {"decode": settings_of(chosen, tried)}
    comment = f"# validation F1 {chosen.f1:.3f} at IoU {config.tune.iou:g}\n"
    if chosen.f1 == 0:  # no setting is better than another: keep those of the config
        overlay = {"decode": settings_of(config.decode, tried)}
        comment = "# nothing was chosen: the validation F1 is 0 with every setting\n"
    with whole_file(run_dir / "tuned.yaml") as temporary:
        temporary.write_text(comment + yaml.safe_dump(overlay))
    if chosen.f1 == 0:
        print(
            f"nothing was chosen: the F1 is 0 with all {len(settings)} settings, so no synapse of "
            f"{volume.opened.truth.path} was found at IoU {config.tune.iou:g}. "
            f"{run_dir / 'tuned.yaml'} keeps what the config has. Train longer, or lower "
            "decode.thres_small, tune.thres or tune.iou",
            file=sys.stderr,
        )
        return
    said = ", ".join(f"{key} {value}" for key, value in overlay["decode"].items())
    print(
        f"{said}: validation F1 {chosen.f1:.3f} at IoU {config.tune.iou:g}; written to "
        f"{run_dir / 'tuned.yaml'}"
    )


if __name__ == "__main__":
    run_command(main, __doc__)
