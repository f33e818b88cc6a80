"""Make the synthetic volumes and convert the volumes that a config lists under prepare.

What is there already is left alone.
"""

from __future__ import annotations

import argparse

from synpol.command import run_command
from synpol.config import Config
from synpol.datasets.import_volume import all_volumes, describe_volume, import_volume
from synpol.datasets.write_synthetic import write_synthetic
from synpol.errors import InputError
from synpol.formats import known_formats


def main(config: Config, given: argparse.Namespace) -> None:
    if not (config.prepare.synthetic or config.prepare.imports):
        raise InputError("prepare.synthetic and prepare.imports are both empty: nothing to prepare")
    for dataset in config.prepare.synthetic:
        print(describe_volume(write_synthetic(dataset, config.workers.num_workers)))
    for entry in config.prepare.imports:
        for volume in all_volumes(entry):
            print(describe_volume(import_volume(volume)))


if __name__ == "__main__":
    run_command(main, f"{__doc__}\nFormats that are imported: {known_formats()}.")
