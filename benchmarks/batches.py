"""Batch supply: patches a second and core, and how long a training step waits for its batch.

    python benchmarks/batches.py [CONFIG ...] [--patches 60] [--iterations 40] [--json FILE]

The configs say which chain and which patch (by default configs/em_r50.yaml: the whole EM-R50
recipe, 18 x 256 x 256 voxels); the data is one synthetic volume of 64 x 640 x 640 voxels. All
contenders make patches with targets in one process on one core (OpenBLAS and torch held to one
thread), in turns:

synpol         the request graph of pipelines/train.py.
after          the same, with rejection after deformation and misalignment, the recipe's own order.
gunpowder      gunpowder's nodes alone (ElasticAugment, ShiftAugment, SimpleAugment,
               IntensityAugment, DefectAugment, NoiseAugment, and Reject on the labels' mask with
               the same number of voxels); the target is made by seg_to_polarity. Gamma has no
               counterpart there. Its Reject knows no probability for poor patches, and draws a
               patch with its image, deformed or not.
MONAI          transforms on arrays that lie in memory (RandWeightedCropd for the patch, which
               always has its centre on foreground, so that nothing is rejected; Rand3DElasticd,
               RandFlipd, RandRotate90d, RandAdjustContrastd, RandGaussianNoised). Misalignment,
               missing sections, blur and single sections have no counterpart there.

Then the recipe's training loop runs with the workers that the config proposes, or as many as this
machine has cores beside the training process, and the share of time that it waits is told. On a
GPU a step is short and the share is what counts; on a CPU it says little but that nobody waits.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"

import gunpowder as gp  # noqa: E402 threads are counted when it is loaded
import numpy as np  # noqa: E402
from figures import tell  # noqa: E402

from synpol.command import run_command  # noqa: E402
from synpol.config import Config, SyntheticDataset, load_config  # noqa: E402
from synpol.datasets.write_synthetic import write_synthetic  # noqa: E402
from synpol.polarity import seg_to_polarity  # noqa: E402
from synpol.training.volumes import ByRoi, OpenVolume, open_volume  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
SHAPE = (64, 640, 640)


def train_module():  # type: ignore[no-untyped-def]
    """pipelines/train.py."""
    spec = importlib.util.spec_from_file_location("train", ROOT / "pipelines" / "train.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ours(config: Config, volume: OpenVolume) -> Iterator[int]:
    """Batches of one patch, one after the other; yields how many were drawn for each."""
    train = train_module()
    config = config.model_copy(
        update={"train": config.train.model_copy(update={"num_workers": 0, "batch_size": 1})}
    )
    graph = train.request_graph(config, [volume], 0, range(1))
    request = train.batch_request(config, volume)
    with gp.build(graph):
        while True:
            yield int(graph.request_batch(request)[train.DRAWS].data.sum())


def gunpowder_alone(config: Config, volume: OpenVolume) -> Iterator[int]:
    """The nearest chain of gunpowder's own nodes."""
    raw, labels, mask = (gp.ArrayKey(k) for k in ("RAW_", "LABELS_", "MASK_"))
    a, patch = config.augment, config.train.patch
    truth = ByRoi(volume.truth)
    foreground = gp.ArraySource(mask, truth, False)
    graph = (
        (
            gp.ArraySource(raw, ByRoi(volume.raw)),
            gp.ArraySource(labels, truth, False),
            foreground,
        )
        + gp.MergeProvider()
        + gp.Normalize(raw, volume.intensity.scale)
        + gp.RandomLocation()
        + gp.ElasticAugment(a.elastic_spacing, a.elastic_sigma, (0, 0), subsample=2, p=a.elastic_p)
        + gp.ShiftAugment(prob_slip=0.02, prob_shift=0.02, sigma=a.misalign, shift_axis=0)
        + gp.SimpleAugment(transpose_only=[1, 2])
        + Foreground(mask)
        + gp.Reject(mask, min_masked=config.reject_sampling.size_thres / float(np.prod(patch)))
        + gp.IntensityAugment(
            raw,
            1 - a.section_contrast,
            1 + a.section_contrast,
            -a.section_brightness,
            a.section_brightness,
            slab=(1, -1, -1),
        )
        + gp.NoiseAugment(raw, var=a.noise**2, p=a.noise_p)
        + gp.DefectAugment(raw, prob_missing=0.04, prob_low_contrast=0.04, axis=0)
    )
    size = gp.Coordinate(patch) * volume.raw.voxel_size
    with gp.build(graph):
        while True:
            request = gp.BatchRequest()
            for key in (raw, labels, mask):
                request.add(key, size)
            seg_to_polarity(graph.request_batch(request)[labels].data)
            yield 1


class Foreground(gp.BatchFilter):
    """Labels become a mask of 0 and 1, as gunpowder's Reject counts them."""

    def __init__(self, mask: gp.ArrayKey) -> None:
        self.mask = mask

    def setup(self) -> None:
        self.updates(self.mask, self.spec[self.mask])

    def process(self, batch: gp.Batch, request: gp.BatchRequest) -> None:
        batch[self.mask].data = (batch[self.mask].data > 0).astype(np.uint8)


def monai(config: Config, volume: OpenVolume) -> Iterator[int]:
    """The nearest chain of MONAI's transforms, on arrays in memory."""
    from monai import transforms as t

    a, patch = config.augment, config.train.patch
    keys = ["raw", "labels"]
    raw = np.asarray(volume.raw.array[:])[None]
    labels = np.asarray(volume.truth.array[:])[None].astype(np.int32)
    foreground = (labels > 0).astype(np.float32)
    chain = t.Compose(
        [
            t.RandWeightedCropd(keys, "weight", patch, 1),
            t.ScaleIntensityRanged("raw", 0, 255, 0, 1),
            t.Rand3DElasticd(keys, (5, 8), (1, 3), prob=a.elastic_p, mode=("bilinear", "nearest")),
            t.RandFlipd(keys, prob=0.5, spatial_axis=0),
            t.RandFlipd(keys, prob=0.5, spatial_axis=1),
            t.RandFlipd(keys, prob=0.5, spatial_axis=2),
            t.RandRotate90d(keys, prob=0.5, spatial_axes=(1, 2)),
            t.RandAdjustContrastd("raw", prob=a.gamma_p, gamma=(1 / a.gamma, a.gamma)),
            t.RandGaussianNoised("raw", prob=a.noise_p, std=a.noise),
        ]
    )
    chain.set_random_state(0)
    while True:
        [made] = chain({"raw": raw, "labels": labels, "weight": foreground})
        seg_to_polarity(np.asarray(made["labels"][0]).astype(np.uint64))
        yield 1


def rates(
    contenders: dict[str, Iterator[int]], patches: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Patches a second of each, in turns of a few; and how many were drawn for one."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    draws: dict[str, list[int]] = {name: [] for name in contenders}
    for made in contenders.values():
        next(made)  # what is loaded once
    for _ in range(patches):
        for name, made in contenders.items():
            started = time.process_time()
            draws[name].append(next(made))
            seconds[name].append(time.process_time() - started)
    return (
        {name: 1 / statistics.mean(s) for name, s in seconds.items()},
        {name: statistics.mean(d) for name, d in draws.items()},
    )


def waiting(config: Config, iterations: int, folder: Path) -> tuple[float, int]:
    """The share of its time that the training loop waits, and the workers it had."""
    os.environ.pop("OMP_NUM_THREADS")
    cores = len(os.sched_getaffinity(0))
    workers = max(1, min(config.train.num_workers, cores - 1))
    path = folder / "waiting.yaml"
    path.write_text(config.model_dump_json())
    overrides = [
        f"train.iterations={iterations}",
        f"train.num_workers={workers}",
        f"run_dir={folder}/run",
        "train.validate_every=0",
    ]
    train = train_module()
    run_command(train.main, train.__doc__, [str(path), *overrides])
    with open(folder / "run" / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    first, last = rows[len(rows) // 4], rows[-1]
    told = float(last["waited"]) - float(first["waited"])
    return told / (float(last["seconds"]) - float(first["seconds"])), workers


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", nargs="*", default=["configs/em_r50.yaml"])
    parser.add_argument("--patches", type=int, default=60)
    parser.add_argument("--iterations", type=int, default=40, help="0: no training")
    parser.add_argument("--json", type=Path, help="write the figures as a flat object")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        dataset = SyntheticDataset(output=str(folder / "data"), shape=SHAPE, seed=1)
        write_synthetic(dataset, len(os.sched_getaffinity(0)))
        volume = {
            "raw": f"{folder}/data/raw",
            "truth": f"{folder}/data/truth",
            "labels": "polarity",
        }
        config = load_config([*given.config, f"data={{train: [{volume}]}}"])
        opened = open_volume(config.data.train[0], None)
        later = {
            "reject_sampling": config.reject_sampling.model_copy(
                update={"after_augmentation": True}
            )
        }
        contenders = {
            "synpol": ours(config, opened),
            "after": ours(config.model_copy(update=later), opened),
            "gunpowder": gunpowder_alone(config, opened),
            "MONAI": monai(config, opened),
        }
        rate, draws = rates(contenders, given.patches)
        print(f"{platform.machine()}, Python {platform.python_version()}, gunpowder ", end="")
        print(f"{version('gunpowder')}, monai {version('monai')}; patch {config.train.patch}")
        print(f"{'':<12} patches/s  synpol's over it  draws a patch")
        for name, value in rate.items():
            print(f"{name:<12} {value:9.2f} {rate['synpol'] / value:17.2f} {draws[name]:14.1f}")
        figures = {f"patches_per_second_{name.lower()}": value for name, value in rate.items()}
        if given.iterations:
            share, workers = waiting(config, given.iterations, folder)
            print(f"training with {workers} workers waits {100 * share:.1f} % of its time")
            figures |= {"waiting": share, "workers": float(workers)}
        tell(figures, given.json)


if __name__ == "__main__":
    main()
