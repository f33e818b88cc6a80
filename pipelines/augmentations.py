"""Draw every augmentation of a config at its strongest on the first training volume.

It writes augmentations.png into run_dir: a row for each augmentation, with three neighbouring
sections and the outlines of the labels. Of a number of draws, the row shows the one that changes
the image most. No network is needed.
"""

from __future__ import annotations

import argparse
import itertools
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
from synpol.training.volumes import (
    ByRoi,
    OpenVolume,
    check_together,
    in_one_unit,
    open_volume,
)

RAW, LABELS = gp.ArrayKey("RAW"), gp.ArrayKey("LABELS")
#: draws of each augmentation, of which one is shown
DRAWS = 12


def drawn(
    volume: OpenVolume, patch: gp.Roi, node: gp.Pipeline, context: Sequence[int], count: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draw image and labels of a patch `count` times, each time augmented by a node."""
    margin = gp.Coordinate(context) * gp.Coordinate(volume.raw.voxel_size)
    graph = (
        (
            gp.ArraySource(RAW, ByRoi(volume.raw)),
            gp.ArraySource(LABELS, ByRoi(volume.truth), False),
        )
        + gp.MergeProvider()
        + gp.Normalize(RAW, volume.intensity.scale)
        + gp.IntensityScaleShift(RAW, 1, volume.intensity.shift)
        + gp.Pad(RAW, margin, mode="reflect")
        + gp.Pad(LABELS, margin, mode="reflect")
        + node
    )
    patches = []
    with gp.build(graph):
        for seed in range(count):
            request = gp.BatchRequest(random_seed=seed)
            for key in (RAW, LABELS):
                request[key] = gp.ArraySpec(roi=patch)
            batch = graph.request_batch(request)
            patches.append((batch[RAW].data, batch[LABELS].data))
    return patches


def fullest_patch(volume: OpenVolume, shape: Sequence[int]) -> gp.Roi:
    """Find the patch with most labels, among patches of a shape (voxels) that overlap by half."""
    corners = itertools.product(
        *(
            range(0, n - p + 1, max(1, p // 2))
            for n, p in zip(volume.raw.shape_vx, shape, strict=True)
        )
    )

    def labelled(corner: tuple[int, ...]) -> int:
        where = tuple(slice(c, c + p) for c, p in zip(corner, shape, strict=True))
        return int(np.count_nonzero(np.asarray(volume.truth.array[where])))

    fullest = gp.Roi(max(corners, key=labelled), shape)
    return fullest * gp.Coordinate(volume.raw.voxel_size) + ByRoi(volume.raw).roi.offset


def main(config: Config, given: argparse.Namespace) -> None:
    if not config.data.train:
        raise InputError("data.train is empty; list at least one volume (raw, truth, labels)")
    volume = open_volume(config.data.train[0], config.data.intensity_range)
    check_together([volume], config.train.patch)
    [volume] = in_one_unit([volume])
    augmented = list(picture_rows(config.augment, RAW))
    check_writable(config.run_dir)
    patch = fullest_patch(volume, config.train.patch)
    [(plain, labels)] = drawn(volume, patch, Nothing(), (0, 0, 0), 1)
    rows = {"as it is": (plain, labels)}
    for title, node, context in augmented:
        draws = drawn(volume, patch, node, context, DRAWS)
        changes = [np.abs(raw - plain).mean() for raw, _ in draws]
        rows[title] = draws[int(np.argmax(changes))]
    path = Path(config.run_dir) / "augmentations.png"
    augmentation_gallery(rows, plain).savefig(path, dpi=80)
    print(path)


if __name__ == "__main__":
    run_command(main, __doc__)
