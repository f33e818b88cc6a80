"""Prediction speed: the stage against the bare network, and against MONAI's sliding window.

    python benchmarks/predict.py [--shape 32 512 512] [--config FILE] [--repeats 3]
                                 [--brief] [--json FILE]

The stage reads Zarr, normalises, blends windows and writes Zarr; one worker. The bare network gets
the windows of the same volume, in memory, in the same batches, and its results are dropped. MONAI
gets the whole volume in memory, the same network, windows, overlap and batch, and leaves its result
there; its constant blending is the mode that coincides, so both blend that way for the comparison,
and results are compared. In these three PyTorch computes the network.

"default" is the stage with the windows and the engine that a config gets which names none, and
"default by torch" with its windows alone; their ratios to MONAI at the recipe's windows (overlap
0.5) are of the same run. "MONAI by OpenVINO" is MONAI with our OpenVINO network in place of
PyTorch's. The device is CUDA where there is one; there all is computed by PyTorch. With `--brief`
only the three of "default" and MONAI are run, for large volumes.

Also: peak memory of the process that predicts, on this volume and on one 16 times as large (with a
network of one layer, so that it ends); the time from the launch of a worker until
it computes; and of a rerun that has
nothing to do, for 10^5 blocks.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import yaml
from figures import tell
from monai.inferers import sliding_window_inference
from polyadic import processor

from synpol.blockwise.records import Done, write_record
from synpol.config import Config, load_config
from synpol.images.image import open_image
from synpol.images.writing import create_image
from synpol.model import build_model
from synpol.model.device import choose_device, choose_dtype
from synpol.prediction.job import PredictJob

Network = Callable[[torch.Tensor], torch.Tensor]
ROOT = Path(__file__).resolve().parents[1]


def make_image(folder: Path, shape: tuple[int, int, int]) -> None:
    """Noise: what the network sees does not decide how long it takes."""
    image = create_image(
        folder,
        "raw",
        shape=shape,
        dtype=np.uint8,
        voxel_size=(30, 16, 16),
        offset=(0, 0, 0),
        unit="nm",
        chunk_shape=(32, 128, 128),
    )
    rng = np.random.default_rng(0)
    for z in range(0, shape[0], 32):
        end = min(z + 32, shape[0])
        image.array[z:end] = rng.integers(0, 255, (end - z, *shape[1:]), np.uint8)


def make_checkpoint(folder: Path, config: Config) -> Path:
    """A network that was never trained."""
    torch.manual_seed(0)
    path = folder / "network.pt"
    state = {"model": build_model(config.model).state_dict(), "iteration": 0}
    torch.save(state | {"config": config.model_dump(mode="json")}, path)
    return path


def configured(source: Path | None, folder: Path, **changes: object) -> Config:
    """A recipe, or what the defaults are, with the benchmark's files."""
    content = yaml.safe_load((source or ROOT / "configs" / "demo.yaml").read_text())
    if source is None:
        del content["model"]
        del content["train"]["patch"]
    for key, value in changes.items():
        section, _, name = key.partition("__")
        content.setdefault(section, {})[name] = value
    content["predict"] |= {"raw": str(folder / "raw"), "output": str(folder / "out")}
    content["run_dir"] = str(folder / "run")
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    return load_config([str(path)])


def stage_seconds(job: PredictJob, polarity: str) -> float:
    """One worker's time for all blocks, from the first read to the last write."""
    from synpol.blockwise.driver import Driver

    stage = job.stage(polarity)
    with Driver(job.work, "benchmark") as driver:
        started = time.perf_counter()
        driver.run(stage)
        return time.perf_counter() - started


def bare_seconds(job: PredictJob, network: Network, device: torch.device) -> float:
    """The network alone on as many windows, in memory."""
    image = torch.from_numpy(np.asarray(job.source.array[:])).to(device).float() / 255
    size, batch = job.windows.window, job.predict.batch_size
    starts = job.windows.of_block((0, 0, 0), job.windows.shape)
    with torch.inference_mode():
        started = time.perf_counter()
        for first in range(0, len(starts), batch):
            boxes = [
                tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))
                for start in starts[first : first + batch]
            ]
            result = network(torch.stack([image[box] for box in boxes])[:, None])
        result.cpu()
        return time.perf_counter() - started


def monai_result(
    job: PredictJob, network: Network, device: torch.device
) -> tuple[float, np.ndarray]:
    """MONAI's sliding window over the whole volume in memory."""
    image = torch.from_numpy(np.asarray(job.source.array[:])).to(device).float() / 255
    with torch.inference_mode():
        started = time.perf_counter()
        result = sliding_window_inference(
            image[None, None],
            job.windows.window,
            job.predict.batch_size,
            network,
            overlap=job.predict.overlap or 0.0,
            mode="constant",
        )
        found = (result[0] * 255 + 0.5).floor().to(torch.uint8).cpu().numpy()
        return time.perf_counter() - started, found


def prepared(config: Config, folder: Path) -> tuple[PredictJob, str]:
    """A job and a new array for it."""
    job = PredictJob.of(config, str(folder / "raw"), str(folder / "out"), folder / "network.pt")
    polarity = job.claim(fresh=True).image_to_write(job.create, forget=[job.folder])
    return job, polarity.path


def speed(
    source: Path | None, shape: tuple[int, int, int], repeats: int, brief: bool
) -> dict[str, float]:
    names = ["default", "default by torch", "stage", "bare", "monai", "monai by openvino"]
    figures: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_image(folder, shape)
        block = [min(s, b) for s, b in zip(shape, (32, 512, 512), strict=True)]
        blocks = {
            "predict__block_shape": block,
            "predict__chunk_shape": [min(32, block[0]), 64, 64],
        }
        unnamed = configured(source, folder, **blocks)
        by_torch = configured(source, folder, predict__engine="torch", **blocks)
        recipe = {"predict__blending": "constant", "predict__engine": "torch"}
        config = configured(source, folder, **recipe, **blocks)
        make_checkpoint(folder, config)
        device = choose_device(config.device)
        network = prepared(config, folder)[0].network.on(device)
        for _ in range(repeats):
            job, polarity = prepared(unnamed, folder)
            engine = job.network.engine
            other = job.network.on(device)
            figures["default"].append(stage_seconds(job, polarity))
            job, polarity = prepared(by_torch, folder)
            figures["default by torch"].append(stage_seconds(job, polarity))
            job, polarity = prepared(config, folder)
            if not brief:
                figures["bare"].append(bare_seconds(job, network, device))
                figures["stage"].append(stage_seconds(job, polarity))
            seconds, theirs = monai_result(job, network, device)
            figures["monai"].append(seconds)
            if engine == "openvino" and not brief:
                figures["monai by openvino"].append(monai_result(job, other, device)[0])
        ours = theirs if brief else np.asarray(open_image(polarity).array[:])
        off = np.abs(ours.astype(int) - theirs.astype(int)).max()
        if off > 1:
            raise RuntimeError(f"the stage and MONAI differ by {off} steps of uint8")
        kind = choose_dtype(config.train.precision, device)
        print(f"{device} ({kind}), default engine: {engine}")
        print(f"{job.windows.count} windows of {job.windows.window}, ", end="")
        print(f"batches of {config.predict.batch_size}, {int(np.prod(job.blocks.grid))} blocks")
    median = {name: statistics.median(seconds) for name, seconds in figures.items() if seconds}
    voxels = float(np.prod(shape))
    for name, seconds in median.items():
        print(f"{name:<17} {seconds:8.2f} s {voxels / seconds / 1e6:8.3f} Mvoxel/s")
    found = {
        "default_over_monai": median["monai"] / median["default"],
        "default_by_torch_over_monai": median["monai"] / median["default by torch"],
        "default_voxels_per_second": voxels / median["default"],
    }
    if not brief:
        found |= {
            "stage_over_bare_network": median["bare"] / median["stage"],
            "stage_over_monai": median["monai"] / median["stage"],
            "stage_voxels_per_second": voxels / median["stage"],
        }
    return found


PEAK = """
import sys
from pathlib import Path
from synpol.config import load_config
from synpol.prediction.job import predict_blockwise
config = load_config([sys.argv[1]])
Path("/proc/self/clear_refs").write_text("5")
predict_blockwise(config, config.predict.raw, config.predict.output, Path(sys.argv[2]))
status = Path("/proc/self/status").read_text()
print(status.split("VmHWM:")[1].split()[0])
"""


def memory(source: Path | None, shape: tuple[int, int, int]) -> dict[str, float]:
    """Peak memory on a volume and on one 16 times as large."""
    peaks = []
    for factor in (1, 4):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            make_image(folder, (shape[0], shape[1] * factor, shape[2] * factor))
            config = configured(
                source,
                folder,
                model__filters=[2, 2],
                train__patch=[16, 64, 64],
                predict__overlap=0.0,
                predict__block_shape=[64, 128, 128],
                predict__chunk_shape=[32, 128, 128],
            )
            make_checkpoint(folder, config)
            command = [sys.executable, "-c", PEAK, str(folder / "config.yaml")]
            done = subprocess.run(
                [*command, str(folder / "network.pt")], check=True, capture_output=True, text=True
            )
            peaks.append(int(done.stdout) / 1024)
            voxels = open_image(folder / "raw").array.size
            print(f"{voxels:>12} voxels: {peaks[-1]:.0f} MB at the peak")
    return {"peak_mb": peaks[0], "peak_mb_16_times_the_volume": peaks[1]}


def start_up(source: Path | None) -> dict[str, float]:
    """From the launch of a worker until it computes, and of a rerun of 10^5 finished blocks."""
    figures = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_image(folder, (64, 256, 256))
        config = configured(
            source,
            folder,
            workers__num_predict_workers=2,
            predict__block_shape=[32, 128, 128],
            predict__chunk_shape=[32, 128, 128],
        )
        make_checkpoint(folder, config)
        command = [sys.executable, str(ROOT / "pipelines" / "predict_blockwise.py")]
        command += [str(folder / "config.yaml"), f"predict.checkpoint={folder}/network.pt"]
        command += ["--only", "predict"]
        run = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        work, launched = Path(f"{folder}/out.work"), 0.0
        while not (times := list(work.glob("logs/predict/*.times"))) and run.poll() is None:
            if not launched and list(work.glob("pool/*/worker.sh")):
                launched = time.time()
            time.sleep(0.01)
        ended = time.time()
        computing = float(times[0].read_text().split()[4])
        figures["launch_to_computing_s"] = ended - computing - launched
        run.wait()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_image(folder, (47 * 8, 47 * 8, 46 * 8))
        blocks = {"predict__block_shape": [8, 8, 8], "predict__chunk_shape": [8, 8, 8]}
        config = configured(source, folder, **blocks)
        make_checkpoint(folder, config)
        job, _ = prepared(config, folder)
        for index in np.ndindex(*job.blocks.grid):
            write_record(job.folder, tuple(int(i) for i in index), Done())  # type: ignore[arg-type]
        command = [sys.executable, str(ROOT / "pipelines" / "predict_blockwise.py")]
        command += [str(folder / "config.yaml"), f"predict.checkpoint={folder}/network.pt"]
        started = time.perf_counter()
        subprocess.run([*command, "--only", "predict"], check=True, stderr=subprocess.DEVNULL)
        figures["rerun_of_100000_blocks_s"] = time.perf_counter() - started
    for name, figure in figures.items():
        print(f"{name} {figure:.1f}")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", type=int, nargs=3, default=(32, 512, 512))
    parser.add_argument("--config", type=Path, help="recipe; default: the default network")
    parser.add_argument("--repeats", type=int, default=3, help="0: memory and start-up")
    parser.add_argument("--brief", action="store_true", help="only the default and MONAI")
    parser.add_argument("--json", type=Path, help="write the figures as a flat object")
    given = parser.parse_args()
    packages = ", ".join(
        f"{p} {version(p)}" for p in ("torch", "monai", "openvino", "zarr", "numpy", "daisy")
    )
    print(f"{processor()} ({torch.backends.cpu.get_cpu_capability()})")
    print(f"Python {platform.python_version()}, {packages}")
    figures: dict[str, float] = {}
    if given.repeats:
        figures |= speed(given.config, tuple(given.shape), given.repeats, given.brief)
    if not given.brief:
        figures |= memory(given.config, (64, 256, 256)) | start_up(given.config)
    tell(figures, given.json)


if __name__ == "__main__":
    main()
