"""A finished result of every command that needs no network, for tests that damage it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from recipes import run, tiny_config, tiny_volume, write

import synpol
from synpol.images.image import open_image


def finish(folder: Path, *commands: str) -> Path:
    """Make instances, table, partners and scores of a tiny volume; returns the config.

    Parameters
    ----------
    folder : Path
        Where it is made: ``data`` and ``result`` in it.
    commands : str
        More commands to run: ``connect``, ``evaluate``.
    """
    tiny_volume(folder / "data", (8, 96, 96))
    truth = open_image(folder / "data" / "truth").array[:]
    write(folder / "result", "polarity", (255 * synpol.seg_to_polarity(truth)).astype(np.uint8))
    neurons = np.broadcast_to(1 + np.arange(96, dtype=np.uint64) // 12, truth.shape)
    write(folder / "data", "neurons", neurons)
    config = tiny_config(
        folder, connect={"segmentation": f"{folder}/data/neurons"}, view={"port": 0}
    )
    assert run("predict_blockwise", config, "--only", "decode") == 0
    for command in commands:
        assert run(command, config) == 0
    return config
