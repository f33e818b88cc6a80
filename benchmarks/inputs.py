"""What opens: files of many writers; and how fast, against the format's library alone.

    python benchmarks/inputs.py [--gigabytes 2] [--repeats 2] [--no-files] [--json FILE]

Every file of input_files/ is imported, and read in place where that is possible: values, voxel size
and place are compared with what was written, a training patch and a predicted block with those of
a plain Zarr of the same values. A file that means no volume has to be refused.

A TIFF stack and a gzip HDF5 are imported; beside that tifffile or h5py alone reads them and
zarr-python alone writes what was read, with the same chunks and codecs. Both take turns, each in a
process of its own; told are the ratio of speeds (medians) and the largest memory of an import.

A network of the default size predicts from each chunked format; told is the share of time in which
it waited for data. The last figure is how long `import synpol` and `open_image` take together.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from figures import tell
from input_files import all_files

from synpol.config import ImportVolume
from synpol.datasets.import_volume import import_volume
from synpol.errors import InputError
from synpol.images.image import open_image

#: pixels along an edge of the sections whose import is timed
EDGE = 2048
SIZE = (40.0, 8.0, 4.0)


def counts() -> dict[str, float]:
    """Read every file in every way that is possible, and count."""
    from input_files.trial import Trial  # torch, whose memory is not that of an import

    results = []
    with tempfile.TemporaryDirectory() as name:
        trial = Trial(Path(name))
        for file in all_files():
            for way in file.ways:
                with tempfile.TemporaryDirectory() as folder:
                    results.append(trial.outcome(file, way, Path(folder)))
    for one in results:
        if one.result == "wrong":
            print(f"wrong: {one.file.name}, {one.way}: {one.note[:300]}")
    writers = sorted({one.file.writer for one in results})
    print(", ".join(f"{name} {_version(name)}" for name in writers))
    found = Counter(one.result for one in results)
    return {
        "files": len({id(one.file) for one in results}),
        "writers": len(writers),
        **{result: found[result] for result in ("right", "refused", "wrong")},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(by hand)"


# ---------------------------------------------------------------- speed


def make_stack(path: Path, sections: int) -> None:
    """Write a stack that compresses about as well as tissue: smooth shapes with noise."""
    import h5py
    import tifffile

    rng = np.random.default_rng(0)
    smooth = rng.integers(60, 190, (EDGE // 8, EDGE // 8), np.uint8).repeat(8, 0).repeat(8, 1)
    noise = rng.integers(0, 16, (4, EDGE, EDGE), np.uint8)
    if path.suffix == ".tif":
        with tifffile.TiffWriter(path, bigtiff=True) as tiff:
            for z in range(sections):
                tiff.write(smooth + noise[z % 4], photometric="minisblack", contiguous=True)
        return
    with h5py.File(path, "w") as file:
        shape, chunks = (sections, EDGE, EDGE), (16, 128, 128)
        data = file.create_dataset("main", shape, "u1", chunks=chunks, compression="gzip")
        for z in range(0, sections, 16):
            data[z : z + 16] = [smooth + noise[k % 4] for k in range(z, min(z + 16, sections))]


def by_libraries(source: Path, output: Path) -> None:
    """Read with the format's library alone and write with zarr-python alone.

    `output` is an empty copy of what the import made: the same chunks and codecs.
    """
    import h5py
    import tifffile
    import zarr

    target = zarr.open_array(output, mode="r+")
    slabs = [(z, min(z + 16, target.shape[0])) for z in range(0, target.shape[0], 16)]
    if source.suffix == ".tif":
        with tifffile.TiffFile(source) as tiff:
            for begin, end in slabs:
                values = tiff.asarray(key=slice(begin, end))
                target[begin:end] = values.reshape(end - begin, *target.shape[1:])
        return
    with h5py.File(source, "r") as file:
        for begin, end in slabs:
            target[begin:end] = file["main"][begin:end]


def run_one(way: str, source: Path, output: Path) -> None:
    """Do one of both, and print seconds and peak memory in MB."""
    started = time.perf_counter()
    if way == "libraries":
        by_libraries(source, output)
    else:
        import_volume(ImportVolume(source=str(source), output=str(output), voxel_size=SIZE))
    seconds = time.perf_counter() - started
    # not ru_maxrss, which begins with the memory of the process that started this one
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    print(f"took {seconds} {peak}")


def measured(way: str, source: Path, output: Path) -> tuple[float, float]:
    """Run in a process of its own; seconds and peak memory in MB."""
    script = [sys.executable, __file__, "--one", way, str(source), str(output)]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    line = next(k for k in done.stdout.splitlines() if k.startswith("took "))
    seconds, peak = map(float, line.split()[1:])
    return seconds, peak


def emptied(made: Path, place: Path) -> Path:
    """Return a new, empty array with the metadata of an imported one."""
    array = open_image(made).path
    place.mkdir(parents=True)
    (place / "zarr.json").write_text((Path(array) / "zarr.json").read_text())
    return place


def speeds(gigabytes: float, repeats: int) -> dict[str, float]:
    """Compare imports with the libraries alone; both read a file that was just written."""
    sections = max(16, int(gigabytes * 2**30) // EDGE**2)
    megabytes = sections * EDGE**2 / 2**20
    found = {}
    for ending, name in ((".tif", "tiff"), (".h5", "hdf5")):
        taken, alone, peaks = [], [], []
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / f"stack{ending}"
            make_stack(source, sections)
            for turn in range(repeats):
                made = Path(folder) / f"{turn}" / "made"
                seconds, peak = measured("import", source, made)
                taken.append(seconds)
                peaks.append(peak)
                copy = emptied(made, made.with_name("alone"))
                alone.append(measured("libraries", source, copy)[0])
                if turn == 0:
                    _check_same(made, copy)
                subprocess.run(["rm", "-r", made.parent], check=True)
        found[f"{name}_over_library"] = statistics.median(alone) / statistics.median(taken)
        found[f"{name}_import_mb_per_s"] = megabytes / statistics.median(taken)
        found[f"{name}_import_peak_mb"] = max(peaks)
        print(f"{name}: {megabytes:.0f} MB; import {taken} s, libraries {alone} s")
    return found


def _check_same(made: Path, copy: Path) -> None:
    """Refuse to compare speeds of what is not the same."""
    import zarr

    one, other = open_image(made).array, zarr.open_array(copy, mode="r")
    for z in (0, one.shape[0] - 1):
        if not np.array_equal(one[z : z + 1, :, :], other[z : z + 1]):
            raise RuntimeError(f"{made} and {copy} differ")


# ---------------------------------------------------------------- prediction


def write_formats(folder: Path, values: np.ndarray) -> dict[str, str]:
    """Write an image in the chunked formats; returns what a config names, by format."""
    import tensorstore
    import zarr

    size = [30, 16, 16]
    about: dict[str, Any] = {"attributes": {"voxel_size": size, "units": ["nm"] * 3}}
    about |= {"data": values, "chunks": (32, 64, 64)}
    zarr.create_array(folder / "zarr_v2", zarr_format=2, **about)
    zarr.create_array(folder / "zarr_v3", **about)
    zarr.create_array(folder / "sharded", shards=(64, 128, 128), **about)
    shape, chunk = list(values.shape[::-1]), [64, 64, 32]
    whole = {"type": "image", "data_type": "uint8", "num_channels": 1}
    scale = {"resolution": size[::-1], "size": shape, "encoding": "raw", "chunk_size": chunk}
    metadata = {"dimensions": shape, "blockSize": chunk, "dataType": "uint8"}
    specs: dict[str, tuple[str, dict[str, Any]]] = {
        "precomputed": ("neuroglancer_precomputed", {"multiscale_metadata": whole}),
        "n5": ("n5", {"metadata": metadata | {"compression": {"type": "gzip"}}}),
    }
    specs["precomputed"][1]["scale_metadata"] = scale
    for name, (driver, more) in specs.items():
        where = {"driver": "file", "path": f"{folder}/{name}/"}
        spec = {"driver": driver, "kvstore": where, **more}
        store = tensorstore.open(spec, create=True, open=True).result()
        (store[..., 0] if name == "precomputed" else store).write(values.T).result()
    attributes = folder / "n5" / "attributes.json"
    said = json.loads(attributes.read_text())
    said["pixelResolution"] = {"dimensions": size[::-1], "unit": "nm"}
    attributes.write_text(json.dumps(said))
    named = {name: str(folder / name) for name in ("zarr_v2", "zarr_v3", "sharded", "n5")}
    return named | {"precomputed": f"precomputed://{folder}/precomputed"}


def idle_fractions() -> dict[str, float]:
    """Share of a prediction's time in which the network waited for data, by format."""
    from predict import configured, make_checkpoint, stage_seconds

    from synpol.prediction.job import PredictJob

    found = {}
    values = np.random.default_rng(0).integers(0, 255, (32, 256, 256), np.uint8)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = configured(None, folder, workers__num_workers=1)
        checkpoint = make_checkpoint(folder, config)
        for kind, source in write_formats(folder, values).items():
            try:
                job = PredictJob.of(config, source, str(folder / f"{kind}.out"), checkpoint)
            except InputError as error:
                print(f"{kind} is not read in place: {str(error)[:200]}")
                continue
            polarity = job.claim(fresh=True).image_to_write(job.create, forget=[job.folder])
            stage_seconds(job, polarity.path)
            lines = [path.read_text() for path in job.work.rglob("*.times")]
            rows = [line.split()[3:] for text in lines for line in text.splitlines()]
            _, computing, idle = np.array(rows, float).T
            fraction = float(idle.sum() / (idle.sum() + computing.sum()))
            found[f"reading_idle_fraction_{kind}"] = fraction
    return found | {"reading_idle_fraction": max(found.values())}


def open_seconds(repeats: int = 7) -> float:
    """Seconds of `import synpol` and `open_image` of a local Zarr, in a new process."""
    from predict import make_image

    code = (
        "import sys, time; t = time.perf_counter(); import synpol; "
        "from synpol.images.image import open_image; open_image(sys.argv[1]); "
        "print(time.perf_counter() - t)"
    )
    with tempfile.TemporaryDirectory() as folder:
        make_image(Path(folder), (32, 128, 128))
        command = [sys.executable, "-c", code, f"{folder}/raw"]
        runs = [subprocess.run(command, capture_output=True, check=True) for _ in range(repeats)]
    return statistics.median(float(run.stdout) for run in runs)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=2, help="size of the timed imports")
    parser.add_argument("--repeats", type=int, default=2, help="turns of the timed imports")
    parser.add_argument("--no-files", action="store_true", help="speed only")
    parser.add_argument("--json", type=Path, help="write the figures as a flat object")
    parser.add_argument("--one", nargs=3, metavar=("WAY", "SOURCE", "OUTPUT"), help="one timed run")
    given = parser.parse_args()
    if given.one:
        run_one(given.one[0], Path(given.one[1]), Path(given.one[2]))
        return
    names = ("numpy", "zarr", "tifffile", "h5py", "tensorstore", "torch")
    packages = ", ".join(f"{name} {version(name)}" for name in names)
    print(f"{platform.machine()}, Python {platform.python_version()}, {packages}")
    figures = {} if given.no_files else counts()
    figures |= speeds(given.gigabytes, given.repeats)
    figures |= idle_fractions()
    figures["open_seconds"] = open_seconds()
    tell(figures, given.json)


if __name__ == "__main__":
    main()
