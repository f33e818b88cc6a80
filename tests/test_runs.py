"""Work on runs of voxels gives what work on dense blocks gives, to the byte."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import numpy as np
import pytest
import zarr
from volumes import random_polarity

from synpol.blockwise.grid import BlockGrid
from synpol.blockwise.records import read_arrays
from synpol.blockwise.stage import blocks_of
from synpol.decoding.dilation import dilate
from synpol.decoding.reference import components
from synpol.decoding.runs import RowRuns, component_labels
from synpol.decoding.stages import DecodeOptions, decoding_stages
from synpol.images.blocks import write_block
from synpol.images.sparse import SparseBlock
from synpol.images.writing import create_image

#: of the records of blocks that commit 61e5ee8 made, which worked on dense blocks
MADE_BY_61E5EE8 = {
    "wrapped 0": "01c7872a27c4b676",
    "wrapped 1": "0faebdfabdfe3864",
    "wrapped 2": "9a393d2ecf6d11ba",
    "wrapped in part": "0c4915b4e00bf9f9",
    "full": "72a5cefaa47b4fee",
    "nothing": "f1d51243ee213d1b",
    "uint8 0.1 5 False True": "88397d6bd8e94412",
    "uint8 0.3 (3, 4, 2) False True": "590d008dad5babb0",
    "float32 0.6 3 False True": "3b7e39cb436acfac",
    "float16 0.3 1 False True": "e6f1315a5ef320fa",
    "uint8 0.6 (1, 2, 7) True True": "9a01fb7908d414d6",
    "float64 0.3 4 True False": "49c5cfd4ef1741ed",
    "uint8 0.3 1 False False": "c3a5532bd4e4dbda",
    "uint8 0.02 (5, 5, 5) False False": "eee14266cea5cfde",
}


def wrapped(seed):
    """Voxels at both ends of rows: one run in C order, apart in the volume."""
    rng = np.random.default_rng(seed)
    volume = np.zeros((3, 4, 6, 8), np.uint8)
    volume[:, :, :, :2] = volume[:, :, :, -2:] = 255
    volume[:, rng.random((4, 6)) < 0.3] = 0
    volume[rng.integers(0, 2), :, 2:4] = 0
    return volume


CASES = {
    **{f"wrapped {n}": (wrapped(n), {"block_shape": (2, 6, 8)}) for n in range(3)},
    "wrapped in part": (wrapped(3), {"block_shape": (3, 4, 5), "dilate_sz": 2}),
    "full": (np.full((3, 5, 6, 7), 255, np.uint8), {"block_shape": (2, 6, 7)}),
    "nothing": (np.zeros((3, 5, 6, 7), np.uint8), {"block_shape": (2, 3, 7)}),
    **{
        f"{dtype} {density} {box} {exclusive} {sides}": (
            random_polarity(7, (7, 16, 17), smooth, density, dtype),
            {
                "block_shape": block,
                "dilate_sz": box,
                "exclusive": exclusive,
                "sides": sides,
                "thres_small": 9,
            },
        )
        for dtype, density, smooth, block, box, exclusive, sides in (
            ("uint8", 0.1, 3, (3, 7, 8), 5, False, True),
            ("uint8", 0.3, 2, (7, 16, 17), (3, 4, 2), False, True),
            ("float32", 0.6, 1, (4, 5, 6), 3, False, True),
            ("float16", 0.3, 4, (2, 16, 5), 1, False, True),
            ("uint8", 0.6, 2, (3, 8, 9), (1, 2, 7), True, True),
            ("float64", 0.3, 3, (3, 8, 9), 4, True, False),
            ("uint8", 0.3, 3, (3, 8, 9), 1, False, False),
            ("uint8", 0.02, 1, (3, 3, 3), (5, 5, 5), False, False),
        )
    },
}


def digest(folder: Path, volume, options) -> str:
    """Hash the records that the stages of blocks make of a volume."""
    options = DecodeOptions(**options)
    blocks = BlockGrid.of(volume.shape[1:], options.block_shape)
    label, dilated, *_ = decoding_stages(
        prediction="polarity/s0",
        dtype=volume.dtype,
        output="out",
        folder=folder,
        blocks=blocks,
        target=blocks,
        options=options,
    )
    for index in blocks_of(blocks.grid):
        given = volume[:, *blocks.slices(index)]
        given = given if options.sides or options.exclusive else given[2:]
        label.write(index, None, label.compute(index, None, np.ascontiguousarray(given)))
    found = hashlib.sha256()
    for index in blocks_of(blocks.grid):
        dilated.write(index, None, dilated.compute(index, None, None))
        for stage in (label, dilated):
            for name, array in sorted(read_arrays(stage.folder, index).items()):
                found.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return found.hexdigest()[:16]


@pytest.mark.parametrize("case", CASES)
def test_records_are_those_of_the_work_on_dense_blocks(tmp_path, case):
    assert digest(tmp_path, *CASES[case]) == MADE_BY_61E5EE8[case]


def masks():
    for seed, density in itertools.product(range(4), (0.02, 0.3, 0.7, 1.0)):
        rng = np.random.default_rng(seed)
        yield rng.random(tuple(rng.integers(1, 9, 3))) < density
    yield wrapped(0)[0] > 0


def runs_of(mask):
    """Runs of the voxels of a mask, where those that wrap around are cut."""
    flat = np.concatenate([[0], mask.ravel(), [0]]).astype(np.int8)
    start, end = (np.flatnonzero(np.diff(flat) == step) for step in (1, -1))
    return RowRuns.cut(start, end - start, mask.shape)[0]


def filled(runs, shape, values=True):
    array = np.zeros(shape, np.asarray(values).dtype)
    for z, y, x, end, value in zip(
        runs.z, runs.y, runs.x, runs.end, np.broadcast_to(values, runs.x.shape), strict=True
    ):
        array[z, y, x:end] = value
    return array


@pytest.mark.parametrize("mask", list(masks()))
def test_runs_are_joined_and_dilated_as_voxels_are(mask):
    runs = runs_of(mask)
    assert np.array_equal(filled(runs, mask.shape), mask)
    ends = [
        np.concatenate(e) for e in zip(*(c[:2] for c in runs.contacts(mask.shape)), strict=True)
    ]
    labels = component_labels(len(runs.x), *ends)
    assert np.array_equal(filled(runs, mask.shape, labels), components(mask)[0])
    for box in (1, 2, 5, (3, 1, 4), (2, 2, 2)):
        shuffled = runs[np.random.default_rng(1).permutation(len(runs.x))]
        dilated = shuffled.dilated(box, mask.shape)
        assert np.array_equal(filled(dilated, mask.shape), dilate(mask, box))
        assert np.array_equal(dilated.first(mask.shape), np.sort(dilated.first(mask.shape)))


@pytest.mark.parametrize("mask", list(masks()))
def test_faces_of_runs_are_those_of_voxels(mask):
    runs = runs_of(mask)
    for axis, (_, _, faces) in enumerate(runs.contacts(mask.shape)):
        inside = np.moveaxis(mask, axis, 0)
        within = 0 if axis < 2 else (runs.length - 1).sum()
        assert faces.sum() + within == (inside[1:] & inside[:-1]).sum()
        for high in (False, True):
            _, place, voxel = runs.on_face(axis, high, mask.shape)
            face = np.zeros(mask.shape, dtype=bool)
            face.ravel()[voxel] = True
            expected = np.zeros(mask.shape, dtype=bool)
            np.moveaxis(expected, axis, 0)[-high] = inside[-high]
            assert np.array_equal(face, expected)
            assert np.array_equal(place, np.flatnonzero(inside[-high]))
    low, shape = (mask.shape[0] // 2, mask.shape[1] // 3, 1), (2, 3, 3)
    part = mask[tuple(slice(a, a + n) for a, n in zip(low, shape, strict=True))]
    found = filled(runs.cropped(low, shape), shape)
    assert np.array_equal(found[tuple(map(slice, part.shape))], part)
    assert found.sum() == part.sum()


@pytest.mark.parametrize("density", [0.001, 0.01, 0.5])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint64])
def test_a_shard_of_runs_has_the_bytes_that_zarr_writes(tmp_path, dtype, density):
    rng = np.random.default_rng(5)
    shape, shard, chunk = (9, 40, 33), (8, 24, 20), (4, 8, 5)
    images = [
        create_image(
            tmp_path / name,
            "instances",
            shape=shape,
            dtype=dtype,
            voxel_size=(30, 8, 8),
            offset=(0, 0, 0),
            unit="nm",
            chunk_shape=chunk,
            shard_shape=shard,
        )
        for name in ("runs", "dense")
    ]
    blocks = BlockGrid.of(shape, shard)
    for index in blocks_of(blocks.grid):
        block = sparse(rng, blocks.shape_of(index), density, dtype)
        for image, values in zip(images, (block, block.dense()), strict=True):
            write_block(image.array, blocks.slices(index), values if len(block.x) else None)
    runs, dense = (
        {p.relative_to(image.path): p.read_bytes() for p in Path(image.path).rglob("c/*/*/*")}
        for image in images
    )
    assert runs == dense and len(runs) > 1


@pytest.mark.parametrize("compressor", ["zstd", "gzip", "chunks", "several"])
def test_runs_are_written_into_any_array(tmp_path, compressor):
    shape = (8, 24, 20)
    array = zarr.create_array(
        tmp_path / "array",
        shape=shape,
        dtype=np.uint16,
        chunks=(4, 8, 5),
        shards={"chunks": None, "several": (4, 24, 10)}.get(compressor, shape),
        compressors=zarr.codecs.GzipCodec() if compressor == "gzip" else zarr.codecs.ZstdCodec(),
    )
    block = sparse(np.random.default_rng(6), shape, 0.05, np.uint16)
    write_block(array, tuple(map(slice, shape)), block)
    assert np.array_equal(array[:], block.dense()) and block.dense().any()


def sparse(rng, shape, density, dtype):
    """Random runs of random values."""
    mask = rng.random(shape) < density
    mask[..., 1:] |= mask[..., :-1]
    runs = runs_of(mask)
    value = rng.integers(1, 200, len(runs.x)).astype(dtype)
    block = SparseBlock(shape, runs.z, runs.y, runs.x, runs.end, value)
    assert np.array_equal(block.dense(), filled(runs, shape, value).astype(dtype))
    return block
