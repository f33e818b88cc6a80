"""Draw every augmentation of a config at its strongest on the first training volume.

Writes augmentations.png into run_dir: a row an augmentation, three neighbouring sections, labels
outlined. Of some draws the one that changes most is shown. Needs no network.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import gunpowder as gp
import numpy as np

from synpol.command import run_command
from synpol.config import Config
from synpol.errors import InputError
from synpol.gp import Nothing
from synpol.gp.augmentations import picture_rows
from synpol.images.writing import check_writable
from synpol.report.figures import augmentation_gallery
from synpol.training.volumes import OpenVolume, as_funlib, check_together, open_volume

RAW, LABELS = gp.ArrayKey("RAW"), gp.ArrayKey("LABELS")
DRAWS = 12


def drawn(
    config: Config, volume: OpenVolume, node: gp.Pipeline, context: Sequence[int], count: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draw image and labels of the patch with most labels, augmented `count` times."""
    voxel = gp.Coordinate(volume.raw.voxel_size)
    size = gp.Coordinate(config.train.patch) * voxel
    begin = best_place(config, volume) * voxel + gp.Coordinate(volume.raw.offset)
    graph = (
        (
            gp.ArraySource(RAW, as_funlib(volume.raw)),
            gp.ArraySource(LABELS, as_funlib(volume.truth), False),
        )
        + gp.MergeProvider()
        + gp.Normalize(RAW, volume.intensity.scale)
        + gp.IntensityScaleShift(RAW, 1, volume.intensity.shift)
        + gp.Pad(RAW, gp.Coordinate(context) * voxel, mode="reflect")
        + gp.Pad(LABELS, gp.Coordinate(context) * voxel, mode="reflect")
        + node
    )
    patches = []
    with gp.build(graph):
        for seed in range(count):
            request = gp.BatchRequest(random_seed=seed)
            for key in (RAW, LABELS):
                request[key] = gp.ArraySpec(roi=gp.Roi(begin, size))
            batch = graph.request_batch(request)
            patches.append((batch[RAW].data, batch[LABELS].data))
    return patches


def best_place(config: Config, volume: OpenVolume) -> gp.Coordinate:
    """First voxel of the patch, on a coarse grid, that has most labels."""
    patch = config.train.patch
    best, where = -1, (0, 0, 0)
    steps = [
        range(0, n - p + 1, max(1, p // 2)) for n, p in zip(volume.raw.shape_vx, patch, strict=True)
    ]
    for z in steps[0]:
        slab = np.asarray(volume.truth.array[z : z + patch[0]]) > 0
        for y in steps[1]:
            for x in steps[2]:
                count = int(slab[:, y : y + patch[1], x : x + patch[2]].sum())
                if count > best:
                    best, where = count, (z, y, x)
    return gp.Coordinate(where)


def main(config: Config, given: argparse.Namespace) -> None:
    if not config.data.train:
        raise InputError("data.train is empty; list at least one volume (raw, truth, labels)")
    volume = open_volume(config.data.train[0], config.data.intensity_range)
    check_together([volume], config.train.patch)
    augmented = list(picture_rows(config.augment, RAW))
    check_writable(config.run_dir)
    [(plain, labels)] = drawn(config, volume, Nothing(), (0, 0, 0), 1)
    rows = {"as it is": (plain, labels)}
    for title, node, context in augmented:
        draws = drawn(config, volume, node, context, DRAWS)
        changes = [np.abs(raw - plain).mean() for raw, _ in draws]
        rows[title] = draws[int(np.argmax(changes))]
    path = Path(config.run_dir) / "augmentations.png"
    augmentation_gallery(rows, plain).savefig(path, dpi=80)
    print(path)


if __name__ == "__main__":
    run_command(main, __doc__)
