"""What opens: files of many writers; and how fast, against the format's library alone.

    python benchmarks/inputs.py [--megabytes 2048] [--json FILE]
    python benchmarks/inputs.py --page

First every file of input_files.py is imported, and opened in place where that is possible: values,
voxel size and offset are compared with what its writer meant. A file that means no volume has to
be refused. Then a TIFF stack and a gzip HDF5 of so many megabytes are imported; beside it tifffile
or h5py alone reads them and zarr-python alone writes what was read, each in a process of its own.
The ratio of speeds and the largest memory are told. At last a network predicts from chunked
formats, and the share of time is told in which it waited for data.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from figures import tell
from input_files import SIZE, File, all_files

from synpol.config import ImportVolume
from synpol.datasets.import_volume import CHUNK, import_volume
from synpol.errors import InputError
from synpol.formats import format_of
from synpol.images.image import Image, open_image

#: page of the docs with the table of files, and what encloses the table
PAGE = Path(__file__).resolve().parents[1] / "docs" / "formats.md"
BEGIN, END = "<!-- made by benchmarks/inputs.py --page -->", "<!-- end -->"
#: pixels along an edge of the sections whose import is timed
EDGE = 2048


@dataclass(frozen=True)
class Outcome:
    """How a file was read.

    Attributes
    ----------
    file : File
    way : {"import", "in place"}
    result : {"right", "refused", "wrong"}
    note : str
        What was wrong, or the refusal.
    """

    file: File
    way: str
    result: str
    note: str


# ---------------------------------------------------------------- files of many writers


def outcomes() -> list[Outcome]:
    """Read every file in every way that is possible."""
    found = []
    for file in all_files():
        with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            folder = Path(name)
            source = str(file.write(folder))
            volume = ImportVolume(source=source, output=str(folder / "made"), **file.entry)
            found.append(outcome(file, "import", partial(import_volume, volume)))
            if file.in_place:
                scheme = "precomputed://" if format_of(source).name == "precomputed" else ""
                found.append(outcome(file, "in place", partial(open_image, scheme + source)))
    return found


def outcome(file: File, way: str, read: Callable[[], Image]) -> Outcome:
    """Read a file in one way, and compare."""
    try:
        image = read()
        different = difference(file, image)
    except InputError as error:
        return Outcome(file, way, "wrong" if file.values is not None else "refused", str(error))
    except Exception as error:  # what a user would see as a traceback
        return Outcome(file, way, "wrong", f"{type(error).__name__}: {error}")
    return Outcome(file, way, "wrong" if different else "right", different)


def difference(file: File, image: Image) -> str:
    """Say how an image differs from what the writer meant."""
    if file.values is None:
        return "it was not refused"
    values = np.asarray(image.array[tuple(slice(0, int(n)) for n in image.array.shape)])
    if values.shape != file.values.shape or not np.array_equal(values, file.values):
        return "other values"
    if not np.allclose(image.voxel_size_nm, SIZE, rtol=1e-6):
        return f"voxels of {image.voxel_size_nm} nm"
    if not np.allclose(image.offset_nm, file.offset, atol=1e-3):
        return f"offset {image.offset_nm} nm"
    return ""


def table(results: list[Outcome]) -> str:
    """Return the Markdown table of files for the docs."""
    lines = ["| writer | file | imported | in place |", "| --- | --- | --- | --- |"]
    ways: dict[int, dict[str, str]] = {}
    for one in results:
        ways.setdefault(id(one.file), {})[one.way] = one.result
    for file in {id(one.file): one.file for one in results}.values():
        way = ways[id(file)]
        lines.append(
            f"| {file.writer} | {file.about} | {way['import']} | {way.get('in place', '')} |"
        )
    return "\n".join(lines) + "\n"


def with_table(text: str, results: list[Outcome]) -> str:
    """Return the page of formats with its table as it is."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(results)}{END}{after}"


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
    """Read with the format's library alone and write with zarr-python alone."""
    import h5py
    import tifffile
    import zarr
    from zarr.codecs import ZstdCodec

    def copy(shape: tuple[int, ...], read: Callable[[int, int], np.ndarray]) -> None:
        target = zarr.create_array(
            output, shape=shape, dtype="u1", chunks=CHUNK, compressors=ZstdCodec(level=1)
        )
        for z in range(0, shape[0], CHUNK[0]):
            end = min(z + CHUNK[0], shape[0])
            target[z:end] = read(z, end)

    if source.suffix == ".tif":
        with tifffile.TiffFile(source) as tiff:
            shape = tiff.series[0].shape
            copy(shape, lambda a, b: tiff.asarray(key=slice(a, b)).reshape(b - a, *shape[1:]))
        return
    with h5py.File(source, "r") as file:
        data = file["main"]
        copy(data.shape, lambda a, b: data[a:b])


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


def speeds(megabytes: int) -> dict[str, float]:
    """Compare imports with the libraries alone; both read a file that was just written."""
    sections = max(16, megabytes * 2**20 // EDGE**2)
    found = {}
    for ending, name in ((".tif", "tiff"), (".h5", "hdf5")):
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / f"stack{ending}"
            make_stack(source, sections)
            alone, _ = measured("libraries", source, Path(folder) / "alone")
            taken, peak = measured("import", source, Path(folder) / "out" / "made")
        found[f"{name}_over_library"] = alone / taken
        found[f"{name}_import_mb_per_s"] = sections * EDGE**2 / 2**20 / taken
        found[f"{name}_import_peak_mb"] = peak
    return found


def idle_fraction() -> float:
    """Share of a prediction's time in which the network waited for data."""
    from predict import configured, make_checkpoint, make_image, prepared, stage_seconds

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_image(folder, (64, 256, 256))
        config = configured(None, folder, workers__num_workers=1)
        make_checkpoint(folder, config)
        stage_seconds(*prepared(config, folder))
        rows = [
            [float(v) for v in line.split()[3:]]
            for path in folder.rglob("*.times")
            for line in path.read_text().splitlines()
        ]
    _, computing, idle = np.array(rows).T
    return float(idle.sum() / (idle.sum() + computing.sum()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=2048, help="size of the timed imports")
    parser.add_argument("--page", action="store_true", help="write the table in docs/formats.md")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=3, metavar=("WAY", "SOURCE", "OUTPUT"), help="one timed run")
    given = parser.parse_args()
    if given.one:
        run_one(given.one[0], Path(given.one[1]), Path(given.one[2]))
        return
    results = outcomes()
    for one in results:
        if one.result == "wrong":
            print(f"wrong: {one.file.writer}, {one.file.about}, {one.way}: {one.note[:200]}")
    if given.page:
        PAGE.write_text(with_table(PAGE.read_text(), results))
        return
    counts = Counter(one.result for one in results)
    figures: dict[str, float] = {
        "files": len({id(one.file) for one in results}),
        "writers": len({one.file.writer for one in results}),
        **{name: counts[name] for name in ("right", "refused", "wrong")},
    }
    figures |= speeds(given.megabytes)
    figures["reading_idle_fraction"] = idle_fraction()
    tell(figures, given.json)


if __name__ == "__main__":
    main()
