"""A decoding with real workers, to be killed: ``fault_job.py PREDICTION OUTPUT [KEY=VALUE]``.

``order=SEED`` hands the blocks of every stage out in a random order; ``flaky=FOLDER`` lets one
block of the label stage raise at its first two attempts, of which it keeps count in the folder;
``slow=SECONDS`` lets every block of the label stage take that much longer; ``workers={...}`` says
where workers run (the section of a config).
"""

import ast
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import synpol
from synpol.blockwise import driver, stage
from synpol.blockwise.grid import index_of
from synpol.config import Workers


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

    def open(self):
        return self.inner.open()

    def place(self, index):
        place = self.order[np.ravel_multi_index(index, self.grid)]
        return index_of(np.unravel_index(place, self.grid))

    def read(self, index, opened):
        return self.inner.read(self.place(index), opened)

    def compute(self, index, opened, given):
        return self.inner.compute(self.place(index), opened, given)

    def write(self, index, opened, result):
        self.inner.write(self.place(index), opened, result)

    def done(self):
        return self.inner.done().ravel()[self.order].reshape(self.grid)


@dataclass(frozen=True)
class Flaky(Shuffled):
    """Another stage, whose block in the middle raises twice."""

    folder_of_attempts: Path

    def compute(self, index, opened, given):
        if index == tuple(n // 2 for n in self.grid):
            attempts = len(list(self.folder_of_attempts.iterdir()))
            if attempts < 2:
                (self.folder_of_attempts / str(attempts)).touch()
                raise OSError("the disk is away for a moment")
        return super().compute(index, opened, given)


@dataclass(frozen=True)
class Slow(Shuffled):
    """Another stage, whose blocks take longer."""

    delay: float

    def compute(self, index, opened, given):
        time.sleep(self.delay)
        return super().compute(index, opened, given)


def shuffle(seed):
    """Let the driver run every stage in a random order."""
    run = driver.Driver.run
    rng = np.random.default_rng(seed)

    def shuffled(self, inner):
        order = rng.permutation(int(np.prod(inner.grid)))
        return run(self, Shuffled(folder=inner.folder, grid=inner.grid, inner=inner, order=order))

    driver.Driver.run = shuffled


def change_label(kind, **arguments):
    """Let the driver run another kind of label stage."""
    run = driver.Driver.run

    def changed(self, inner):
        if inner.name != "label":
            return run(self, inner)
        about = {"folder": inner.folder, "grid": inner.grid, "inner": inner}
        return run(self, kind(**about, order=np.arange(inner.count), **arguments))

    driver.Driver.run = changed


if __name__ == "__main__":
    driver.DRIVER_VOXELS = 2**16  # nearly every stage goes to workers
    options = {"thres_small": 20, "block_shape": (8, 48, 48)}
    for change in sys.argv[3:]:
        key, _, value = change.partition("=")
        options[key] = ast.literal_eval(value)
    if "order" in options:
        shuffle(options.pop("order"))
    if "flaky" in options:
        change_label(Flaky, folder_of_attempts=Path(options.pop("flaky")))
    if "slow" in options:
        change_label(Slow, delay=options.pop("slow"))
    if "workers" in options:
        options["workers"] = Workers(**options["workers"])
    output = sys.argv[2]
    synpol.decode_blockwise(
        sys.argv[1],
        output,
        num_workers=options.pop("num_workers", 2),
        synapses=f"{output}/synapses.parquet",
        **options,
    )
