"""Get the EM-R50 data set and convert it to OME-Zarr.

Downloads the archive (goes on with a broken download), records its SHA-256, unpacks it, checks the
labels, and converts with the voxel size that the config confirms.
"""

from __future__ import annotations

import argparse

from synpol.command import run_command
from synpol.config import Config
from synpol.datasets.em_r50 import prepare_em_r50


def main(config: Config, given: argparse.Namespace) -> None:
    for line in prepare_em_r50(config.prepare.em_r50):
        print(line, flush=True)


if __name__ == "__main__":
    run_command(main, __doc__)
