"""A stage of one's own, defined outside the package: the stage and one call."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import zarr
from recipes import write
from scipy.ndimage import gaussian_filter

from synpol.blockwise import BlockGrid, ImageStage, Index, VoxelStage, run_image_stage, run_stage
from synpol.blockwise import driver as driver_module
from synpol.blockwise.run import options_of
from synpol.errors import InputError
from synpol.images.image import Image, open_image

SHAPE = (9, 70, 64)


@dataclass(frozen=True, kw_only=True)
class Smooth(ImageStage):
    """Smooth an image with a Gaussian."""

    sigma: float = 1.5

    name = "smooth"
    halo = (6, 6, 6)

    def transform(self, voxels: np.ndarray) -> np.ndarray:
        return gaussian_filter(voxels, self.sigma)


class Bright(ImageStage):
    """Mark the bright voxels of each of three channels, and those that are bright in all."""

    name = "bright"
    dtype = np.uint8
    channels = 4

    def transform(self, voxels: np.ndarray) -> np.ndarray:
        bright = voxels > 250
        return np.stack([*bright, bright.all(0)])


@dataclass(frozen=True)
class Histogram:
    """Record of one block: how many voxels have each grey value."""

    voxels: np.ndarray


@dataclass(frozen=True, kw_only=True)
class HistogramStage(VoxelStage[zarr.Array, np.ndarray, Histogram]):
    """Count the voxels of each grey value."""

    image: str

    name = "histogram"

    def open(self) -> zarr.Array:
        return open_image(self.image).array

    def read(self, index: Index, opened: zarr.Array) -> np.ndarray:
        return np.asarray(opened[self.blocks.slices(index)])

    def compute(self, index: Index, opened: zarr.Array, given: np.ndarray) -> Histogram:
        return Histogram(np.bincount(given.ravel(), minlength=256))


@pytest.fixture
def volume(tmp_path: Path) -> np.ndarray:
    """An image of noise, written as ``in/raw``."""
    raw = np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.uint8)
    raw[:, :40, :40] = 0  # a block of it is all zeros
    write(tmp_path / "in", "raw", raw, offset=(30, 160, 0))
    return raw


@pytest.fixture(params=[1, 2])
def num_workers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """One worker, the calling process; or two worker processes."""
    monkeypatch.setattr(driver_module, "DRIVER_VOXELS", 0)
    return int(request.param)


def smooth(folder: Path, stage: ImageStage | None = None, **options) -> Image:
    options = {"block_shape": (4, 32, 20)} | options
    return run_image_stage(stage or Smooth(), folder / "in" / "raw", folder / "out", **options)


@pytest.mark.parametrize("block", [(4, 32, 20), (9, 7, 64), (100, 100, 100)])
def test_an_image_made_block_by_block_is_that_of_the_whole_volume(
    tmp_path, volume, num_workers, block
):
    image = smooth(tmp_path, block_shape=block, num_workers=num_workers)
    assert np.array_equal(image.array[:], gaussian_filter(volume, 1.5))
    source = open_image(tmp_path / "in" / "raw")
    assert (image.voxel_size, image.offset, image.unit) == (
        source.voxel_size,
        source.offset,
        source.unit,
    )
    assert open_image(tmp_path / "out" / "smooth").array.attrs["synpol_complete"]
    by_workers = num_workers == 2 and block != (100, 100, 100)
    assert by_workers == (tmp_path / "out.work" / "logs" / "synpol-0.err").exists()


def test_an_image_may_have_other_channels_and_another_type(tmp_path):
    raw = np.random.default_rng(1).integers(0, 256, (3, *SHAPE)).astype(np.uint16)
    write(tmp_path / "in", "raw", raw)
    made = smooth(tmp_path, Bright()).array
    expected = np.concatenate([raw > 250, (raw > 250).all(0)[None]])
    assert made.dtype == np.uint8
    assert np.array_equal(made[:], expected)


def test_a_finished_image_is_left_alone_and_made_anew_for_other_options(
    tmp_path, volume, monkeypatch
):
    first = smooth(tmp_path).array[:]
    monkeypatch.setattr(Smooth, "transform", None)  # a call would fail
    assert np.array_equal(smooth(tmp_path).array[:], first)
    monkeypatch.undo()
    sharper = smooth(tmp_path, Smooth(sigma=0.5)).array[:]
    assert np.array_equal(sharper, gaussian_filter(volume, 0.5))
    monkeypatch.setattr(Smooth, "version", 2)
    monkeypatch.setattr(Smooth, "transform", lambda self, voxels: voxels)
    assert np.array_equal(smooth(tmp_path, Smooth(sigma=0.5)).array[:], volume)
    monkeypatch.undo()
    source = open_image(tmp_path / "in" / "raw", mode="r+")
    source.array[:] = 0  # of a foreign image only path and metadata are known
    monkeypatch.setattr(Smooth, "version", 2)
    assert np.array_equal(smooth(tmp_path, Smooth(sigma=0.5)).array[:], volume)
    assert (smooth(tmp_path, Smooth(sigma=0.5), fresh=True).array[:] == 0).all()


SCRIPT = """
import sys, time
from dataclasses import dataclass
from pathlib import Path
from scipy.ndimage import gaussian_filter
import synpol.blockwise.driver as driver
from synpol.blockwise import ImageStage, run_image_stage

driver.DRIVER_VOXELS = 0

@dataclass(frozen=True, kw_only=True)
class Smooth(ImageStage):
    sigma: float
    notes: str  # folder that says how long a block takes, and gets a file for each block

    name = "smooth"
    halo = (6, 6, 6)

    def transform(self, voxels):
        time.sleep(float(Path(self.notes, "seconds").read_text()))
        Path(self.notes, f"{time.monotonic_ns()}.done").touch()
        return gaussian_filter(voxels, self.sigma)

if __name__ == "__main__":
    folder = sys.argv[1]
    run_image_stage(
        Smooth(sigma=1.5, notes=folder), f"{folder}/in/raw", f"{folder}/out",
        block_shape=(4, 32, 20), num_workers=int(sys.argv[2]),
    )
"""


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_script_that_was_killed_does_only_what_is_missing(tmp_path, volume, num_workers):
    script = tmp_path / "own.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(tmp_path), str(num_workers)]
    (tmp_path / "seconds").write_text("0.3")
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.rglob("*.record"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    kept = len(list(tmp_path.rglob("*.record")))
    assert 3 <= kept < 36
    with pytest.raises(InputError, match="is unfinished"):
        run_image_stage(Smooth(), tmp_path / "out" / "smooth", tmp_path, block_shape=(9, 9, 9))
    (tmp_path / "seconds").write_text("0")
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    image = open_image(tmp_path / "out" / "smooth")
    assert np.array_equal(image.array[:], gaussian_filter(volume, 1.5))
    computed = len(list(tmp_path.glob("*.done")))
    assert 36 <= computed <= 36 + 2 * num_workers  # those that were in hand were done again
    assert not list(tmp_path.rglob("*.record"))  # the image itself says that it is finished


def test_what_another_has_made_is_refused_and_nothing_is_written(tmp_path, volume):
    write(tmp_path / "out", "smooth", volume)
    with pytest.raises(InputError, match=r"smooth/s0 exists and was not written by synpol"):
        smooth(tmp_path)
    assert np.array_equal(open_image(tmp_path / "out" / "smooth").array[:], volume)


def test_what_another_stage_has_made_is_refused(tmp_path, volume):
    class Other(Smooth):
        name = "other"

    made = smooth(tmp_path, Other()).array[:]
    (tmp_path / "out" / "other").rename(tmp_path / "out" / "smooth")
    with pytest.raises(InputError, match="was not made by the stage 'smooth'"):
        smooth(tmp_path, Smooth())
    assert np.array_equal(open_image(tmp_path / "out" / "smooth").array[:], made)


def test_an_image_is_not_made_from_itself(tmp_path, volume):
    (tmp_path / "in" / "raw").rename(tmp_path / "in" / "smooth")
    made = run_image_stage(
        Smooth(), tmp_path / "in" / "smooth", tmp_path / "out", block_shape=(9, 70, 64)
    )
    with pytest.raises(InputError, match="is both the source and the image to write"):
        run_image_stage(
            Smooth(), tmp_path / "out" / "smooth", tmp_path / "out", block_shape=(9, 70, 64)
        )
    assert np.array_equal(made.array[:], gaussian_filter(volume, 1.5))


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda voxels: voxels[:-3], r"transform made a block of the shape \(.*\), \(.*\) is exp"),
        (lambda voxels: voxels[None], "as many channels as `channels` of the stage says"),
        (lambda voxels: voxels / 255, "transform made float64, but the image is uint8"),
    ],
)
def test_a_result_that_does_not_fit_is_refused(tmp_path, volume, monkeypatch, made, said):
    monkeypatch.setattr(Smooth, "transform", lambda self, voxels: made(voxels))
    with pytest.raises(InputError, match=said):
        smooth(tmp_path)


def test_a_stage_that_measures_hands_back_its_records(tmp_path, volume, num_workers):
    blocks = BlockGrid.of(SHAPE, (4, 32, 20))
    stage = HistogramStage(image=str(tmp_path / "in" / "raw"), blocks=blocks)
    for _ in range(2):
        done = run_stage(stage, tmp_path / "work", num_workers=num_workers)
        total = sum(record.voxels for record in done.records(Histogram))
        assert np.array_equal(total, np.bincount(volume.ravel(), minlength=256))
    other = HistogramStage(image=stage.image, blocks=BlockGrid.of(SHAPE, (9, 35, 64)))
    assert run_stage(other, tmp_path / "work").folder != done.folder
    with pytest.raises(ValueError, match="'histogram' has no folder"):
        driver_module.Driver(tmp_path / "work", "test").run(stage)


def test_a_field_that_is_no_option_is_named():
    @dataclass(frozen=True, kw_only=True)
    class Weighted(Smooth):
        weights: np.ndarray

    with pytest.raises(TypeError, match=r"smooth\.weights is a ndarray; the fields of a stage are"):
        options_of(Weighted(weights=np.zeros(3)))


def test_importing_the_engine_imports_nothing_heavy():
    code = (
        "import sys, synpol.blockwise, synpol.blockwise.worker; "
        "print([m for m in ('zarr', 'daisy', 'psij', 'pydantic', 'tqdm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
