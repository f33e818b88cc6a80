"""Metadata that were changed at random: an import gives a volume or a refusal, nothing else."""

import functools
import json
import random
import shutil
import tracemalloc

import h5py
import numpy as np
import pytest
import tifffile
from importing import RAW, made_of
from test_import_chunked import write_n5
from test_import_formats import nrrd_header, write_mrc, write_nifti
from watched import watched

from synpol.errors import InputError

SMALL = RAW[:3]
#: what a value may become
ODD = [
    None, True, -1, 0, 1e300, -1e-300, float("nan"), 2**70, "", "nm", "zyx", "µm", "\x00", [], [1],
    [1, 2, 3], [0, 0, 0], ["z", "y", "x"], [None] * 3, [[1, 2], [3]], {}, {"a": 1}, [1e400] * 3,
]  # fmt: skip


def outcome(source, in_any_order=False, **more):
    """Import; anything but a volume of the right values or a refusal fails.

    Where only names of axes can be damaged the values are the same ones, perhaps in another order.
    """
    try:
        image = made_of(source, **more)
    except InputError as error:
        assert str(source.name) in str(error)
        return
    assert min(image.voxel_size) > 0
    if in_any_order:
        assert np.array_equal(np.sort(image.array[:], None), np.sort(SMALL, None))


def changed(rng, value):
    """Change one place in a JSON value."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(sorted(value))
        if rng.random() < 0.2:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: changed(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.6:
        place = rng.randrange(len(value))
        return [changed(rng, v) if i == place else v for i, v in enumerate(value)]
    return rng.choice(ODD)


@pytest.mark.parametrize("seed", range(200))
def test_hdf5_attributes(seed, tmp_path):
    try_attributes(seed, tmp_path)


def try_attributes(seed, tmp_path):
    """Import an HDF5 file with odd attributes."""
    rng = random.Random(seed)
    keys = ["resolution", "voxel_size", "offset", "units", "unit", "element_size_um", "axes"]
    keys += ["axistags", "axis_names", "_ARRAY_DIMENSIONS", "MATLAB_class", "dimension_names"]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["main"] = SMALL
        for key in rng.sample(keys, 3):
            value = rng.choice([v for v in ODD if v is not None])
            try:
                file["main"].attrs[key] = json.dumps(value) if rng.random() < 0.3 else value
            except (TypeError, ValueError, OverflowError):
                file["main"].attrs[key] = json.dumps(value)
    outcome(tmp_path / "a.h5", in_any_order=True)


@pytest.mark.parametrize("seed", range(40))
def test_n5_attributes(seed, tmp_path):
    rng = random.Random(seed)
    path = tmp_path / "a.n5"
    transform = {"axes": ["z", "y", "x"], "scale": [4, 4, 4], "translate": [2, 2, 2]}
    resolution = {"dimensions": [4, 4, 4], "unit": "nm"}
    write_n5(path, SMALL, transform=transform, pixelResolution=resolution, axes=["x", "y", "z"])
    about = json.loads((path / "attributes.json").read_text())
    (path / "attributes.json").write_text(json.dumps(changed(rng, about)))
    outcome(path)


def write_nrrd(path, values):
    import nrrd

    nrrd.write(str(path), values.T, nrrd_header(), index_order="F")
    return path


WRITERS = {
    "a.mrc": lambda path: write_mrc(path, SMALL.astype(np.int16), (40, 8, 4)),
    "a.data": lambda path: write_nifti(path, SMALL),
    "a.nrrd": lambda path: write_nrrd(path, SMALL),
    "a.tif": lambda path: tifffile.imwrite(path, SMALL, imagej=True, metadata={"axes": "ZYX"}),
    "b.tif": lambda path: tifffile.imwrite(path, SMALL, ome=True, compression="zlib"),
    "c.h5": lambda path: h5py.File(path, "w").create_dataset("main", data=SMALL).file.close(),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("seed", range(25))
def test_bytes_of_headers(name, seed, tmp_path):
    try_header(name, seed, tmp_path)


def try_header(name, seed, tmp_path):
    """Import a file with some bytes of its header changed."""
    rng = random.Random(f"{name}{seed}")
    path = tmp_path / name
    WRITERS[name](path)
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 3, 10])):
        content[rng.randrange(min(700, len(content)))] = rng.randrange(256)
    if rng.random() < 0.2:
        content = content[: rng.randrange(len(content))]
    path.write_bytes(content)
    with watched(tmp_path):
        outcome(path, voxel_size=(40, 8, 4), ignore_metadata=rng.random() < 0.5)


def in_new_folders(attempt, tmp_path, seeds):
    """Try each seed in a folder of its own; returns how many."""
    for seed in seeds:
        folder = tmp_path / str(seed)
        folder.mkdir()
        attempt(seed, folder)
        shutil.rmtree(folder)
    return len(seeds)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["attributes of HDF5", *WRITERS])
def test_headers_many_times(name, tmp_path, capsys):
    attempt = functools.partial(try_header, name) if name in WRITERS else try_attributes
    count = in_new_folders(attempt, tmp_path, range(1000, 1500))
    with capsys.disabled():
        print(f"\n{name}: {count} inputs")
    assert count == 500


def test_an_extended_header_that_is_not_there_takes_no_memory(tmp_path):
    write_mrc(tmp_path / "a.mrc", SMALL.astype(np.int16), (40, 8, 4))
    content = bytearray((tmp_path / "a.mrc").read_bytes())
    for claimed in (2**30, -1):
        content[92:96] = claimed.to_bytes(4, "little", signed=True)
        (tmp_path / "a.mrc").write_bytes(content)
        tracemalloc.start()
        with pytest.raises(InputError, match=r"a\.mrc"):
            made_of(tmp_path / "a.mrc")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2**25
