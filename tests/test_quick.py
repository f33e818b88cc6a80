"""Reading all of a polarity array: the same voxels as with zarr-python, and its messages."""

import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.codecs.numcodecs import Delta

from synpol import decode_blockwise
from synpol.errors import InputError
from synpol.images.image import open_image, open_voxels
from synpol.images.quick import QuickArray
from synpol.images.reading import read_voxels
from synpol.images.writing import create_image

SHAPE = (3, 12, 40, 36)


def polarity(folder: Path, dtype: str = "uint8", shards: tuple[int, ...] | None = None) -> str:
    """Write noise, with a corner in which no chunk is stored."""
    image = create_image(
        folder,
        "polarity",
        shape=SHAPE,
        dtype=dtype,
        voxel_size=(30, 8, 8),
        offset=(0, 0, 0),
        unit="nm",
        chunk_shape=(1, 4, 8, 8),
        shard_shape=shards,
    )
    voxels = np.random.default_rng(3).random(SHAPE)
    voxels[:, :4, :16, :16] = 0
    image.array[:] = voxels if dtype[0] == "f" else (255 * voxels).astype(dtype)
    return image.path


def boxes() -> list[tuple[slice, ...]]:
    """Boxes within the array, some of which begin and end within chunks."""
    rng = np.random.default_rng(0)
    ends = [np.sort(rng.integers(0, np.array(SHAPE) + 1, (2, 4)), axis=0) for _ in range(30)]
    found = [tuple(slice(int(a), int(b)) for a, b in zip(*e, strict=True)) for e in ends]
    return [(slice(None), *found[0][1:]), (slice(2, 3), *[slice(None)] * 3), *found]


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float16"])
@pytest.mark.parametrize("shards", [None, (3, 8, 16, 16)])
def test_voxels_are_those_that_zarr_reads(tmp_path, dtype, shards):
    path = polarity(tmp_path, dtype, shards)
    array, stored = open_voxels(path, channels=3), zarr.open_array(path, mode="r")
    assert isinstance(array, QuickArray)
    assert (array.shape, array.dtype, array.chunks) == (stored.shape, stored.dtype, stored.chunks)
    for where in boxes():
        read, expected = array[where], stored[where]
        assert read.dtype == expected.dtype
        assert np.array_equal(read, expected)


def test_other_indices_and_copies_are_those_of_zarr(tmp_path):
    path = polarity(tmp_path)
    array, stored = open_voxels(path, channels=3), zarr.open_array(path, mode="r")
    for opened in (array, pickle.loads(pickle.dumps(array))):
        assert isinstance(opened, QuickArray)
        for where in (
            ...,
            slice(None),
            0,
            (0, 1, 2, 3),
            (..., slice(2, 5)),
            (slice(-2, None),) * 4,
        ):
            assert np.array_equal(opened[where], stored[where])


def test_a_path_that_is_no_text_is_read(tmp_path):
    path = polarity(tmp_path / os.fsdecode(b"caf\xe9"))
    array = open_voxels(path, channels=3)
    assert np.array_equal(array[(slice(None),) * 4], zarr.open_array(path, mode="r")[:])


def test_metadata_of_a_group_that_are_older_count(tmp_path):
    attributes = {"voxel_size": [30, 8, 8], "offset": [0, 0, 0]}
    group = zarr.create_group(tmp_path / "group")
    options = {"shape": SHAPE, "chunks": (3, 4, 8, 8), "dtype": "uint8"}
    group.create_array("s0", fill_value=7, attributes=attributes, **options)
    zarr.consolidate_metadata(tmp_path / "group")
    zarr.create_array(tmp_path / "group/s0", overwrite=True, fill_value=9, **options)
    array = open_voxels(str(tmp_path / "group"), channels=3)
    assert (array[(slice(None),) * 4] == array.fill_value).all()


def test_a_damaged_chunk_is_named_as_zarr_names_it(tmp_path):
    path = polarity(tmp_path, shards=(3, 8, 16, 16))
    chunk = Path(path) / "c/0/1/1/1"
    content = bytearray(chunk.read_bytes())
    content[20] ^= 0xFF
    chunk.write_bytes(content)
    array = open_voxels(path, channels=3)
    assert isinstance(array, QuickArray)
    with pytest.raises(InputError, match="polarity/s0/c/0/1/1/1 is damaged"):
        read_voxels(array, (slice(None),) * 4, path)
    left = (slice(None), slice(0, 8), slice(None), slice(None))
    assert np.array_equal(array[left], open_image(path).array[left])


def test_a_codec_that_tensorstore_lacks_is_read(tmp_path):
    values = np.random.default_rng(5).integers(0, 255, SHAPE, "uint8")
    array = zarr.create_array(
        tmp_path / "array",
        shape=SHAPE,
        chunks=(1, 4, 8, 8),
        dtype="uint8",
        filters=[Delta(dtype="u1")],
        attributes={"voxel_size": [30, 8, 8], "offset": [0, 0, 0]},
    )
    array[:] = values
    opened = open_voxels(str(tmp_path / "array"), channels=3)
    assert not isinstance(opened, QuickArray)
    assert np.array_equal(opened[:], values)


def test_decoding_goes_on_in_a_process_that_was_forked(tmp_path):
    path = polarity(tmp_path)
    array = open_voxels(path, channels=3)
    expected = array[(slice(None),) * 4]

    def decoded(name):
        options = {"block_shape": (8, 16, 16), "thres": 0.7, "thres_small": 5}
        decode_blockwise(path, tmp_path / name, **options)
        return open_image(tmp_path / name / "instances").array[:]

    def work():
        assert np.array_equal(array[(slice(None),) * 4], expected)
        assert not isinstance(open_voxels(path, channels=3), QuickArray)
        assert decoded("forked").any()

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(120)
    assert process.exitcode == 0
    forked = open_image(tmp_path / "forked" / "instances").array[:]
    assert np.array_equal(decoded("here"), forked)


SCRIPT = """
import multiprocessing, sys
import tensorstore

def work(path):
    from synpol.images.image import open_voxels
    print(open_voxels(path, channels=3)[(slice(None),) * 4].sum())

spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": sys.argv[1] + "/"}}
print(tensorstore.open(spec, open=True).result().read().result().sum())
process = multiprocessing.get_context("fork").Process(target=work, args=(sys.argv[1],))
process.start()
process.join()
sys.exit(process.exitcode)
"""


def test_a_program_that_uses_tensorstore_itself_may_fork(tmp_path):
    command = [sys.executable, "-c", SCRIPT, polarity(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    here, forked = done.stdout.split()
    assert here == forked
