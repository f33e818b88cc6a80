"""A decoding with real workers, to be killed: ``fault_job.py PREDICTION OUTPUT [KEY=VALUE]``.

``order=SEED`` hands the blocks of every stage out in a random order; ``flaky=FOLDER`` lets one
block of the label stage raise at its first two attempts, of which it keeps count in the folder.
"""

import ast
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import synpol
from synpol.blockwise import stage
from synpol.blockwise.geometry import index_of


@dataclass(frozen=True)
class Shuffled(stage.Stage):
    """Another stage with its blocks in a random order."""

    inner: stage.Stage
    order: np.ndarray = field(repr=False)

    @property
    def name(self):
        return self.inner.name

    @property
    def cost(self):
        return self.inner.cost

    def start(self):
        return self.inner.start()

    def process(self, index, loaded):
        place = self.order[np.ravel_multi_index(index, self.grid)]
        self.inner.process(index_of(np.unravel_index(place, self.grid)), loaded)

    def done(self):
        return self.inner.done().ravel()[self.order].reshape(self.grid)


@dataclass(frozen=True)
class Flaky(Shuffled):
    """Another stage, whose block in the middle raises twice."""

    folder_of_attempts: Path

    def process(self, index, loaded):
        if index == tuple(n // 2 for n in self.grid):
            attempts = len(list(self.folder_of_attempts.iterdir()))
            if attempts < 2:
                (self.folder_of_attempts / str(attempts)).touch()
                raise OSError("the disk is away for a moment")
        super().process(index, loaded)


def shuffle(seed):
    """Let the driver run every stage in a random order."""
    run = stage.Driver.run
    rng = np.random.default_rng(seed)

    def shuffled(driver, inner):
        order = rng.permutation(int(np.prod(inner.grid)))
        return run(driver, Shuffled(inner.folder, inner.grid, inner, order))

    stage.Driver.run = shuffled


def make_flaky(folder):
    run = stage.Driver.run

    def flaky(driver, inner):
        if inner.name != "label":
            return run(driver, inner)
        order = np.arange(int(np.prod(inner.grid)))
        return run(driver, Flaky(inner.folder, inner.grid, inner, order, Path(folder)))

    stage.Driver.run = flaky


if __name__ == "__main__":
    stage.DRIVER_VOXELS = 2**19  # nearly every stage goes to workers
    options = {"thres_small": 20, "block_shape": (8, 48, 48)}
    for change in sys.argv[3:]:
        key, _, value = change.partition("=")
        options[key] = ast.literal_eval(value)
    if "order" in options:
        shuffle(options.pop("order"))
    if "flaky" in options:
        make_flaky(options.pop("flaky"))
    output = sys.argv[2]
    synpol.decode_blockwise(
        sys.argv[1], output, num_workers=2, synapses=f"{output}/synapses.parquet", **options
    )
