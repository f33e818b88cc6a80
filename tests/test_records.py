"""Records: dataclasses on disk, whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from synpol.blockwise.records import (
    DamagedRecord,
    Done,
    done_mask,
    pack,
    read_arrays,
    read_record,
    record_path,
    stored,
    unpack,
    write_record,
)


@dataclass
class Sums:
    voxels: np.ndarray
    low: np.ndarray


@dataclass
class Sample:
    count: np.ndarray
    sums: Sums = field(metadata=stored("sum"))
    faces: dict[int, np.ndarray]
    sides: dict[str, Sums] = field(metadata=stored("", keys=("pre", "post")))
    rest: Sums = field(metadata=stored(""))


@dataclass
class CountAlone:
    count: np.ndarray


def sums(seed: int) -> Sums:
    rng = np.random.default_rng(seed)
    return Sums(rng.integers(0, 9, 3), rng.random((3, 2)).astype(np.float32))


def sample() -> Sample:
    faces = {0: np.zeros((4, 0), np.uint32), 5: np.arange(8, dtype=np.uint32).reshape(4, 2)}
    return Sample(np.array(7), sums(0), faces, {"pre": sums(1), "post": sums(2)}, sums(3))


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert list(one) == list(other)
    for name in one:
        assert one[name].dtype == other[name].dtype
        np.testing.assert_array_equal(one[name], other[name])


def test_parts_of_a_record_are_named_by_their_way_from_it():
    assert list(pack(sample())) == [
        "count",
        "sum.voxels",
        "sum.low",
        "faces.0",
        "faces.5",
        "pre.voxels",
        "pre.low",
        "post.voxels",
        "post.low",
        "voxels",
        "low",
    ]


def test_what_is_packed_is_unpacked():
    found = unpack(Sample, pack(sample()))
    assert list(found.faces) == [0, 5]
    assert isinstance(found.sides["post"], Sums)
    assert_same(pack(found), pack(sample()))


def test_a_record_comes_back_from_disk(tmp_path):
    write_record(tmp_path, (1, 2, 3), sample())
    assert_same(pack(read_record(tmp_path, (1, 2, 3), Sample)), pack(sample()))
    assert_same(read_arrays(tmp_path, (1, 2, 3)), pack(sample()))


def test_python_objects_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(TypeError, match="count of the record CountAlone"):
        write_record(tmp_path, (0, 0, 0), CountAlone(np.array([None, "a"], dtype=object)))
    assert not done_mask(tmp_path, (1, 1, 1)).any()


def test_a_part_of_a_record_can_be_read_alone(tmp_path):
    write_record(tmp_path, (0, 0, 0), sample())
    assert int(read_record(tmp_path, (0, 0, 0), CountAlone).count) == 7


def test_an_empty_record_marks_its_block(tmp_path):
    write_record(tmp_path, (0, 1, 0), Done())
    assert done_mask(tmp_path, (1, 2, 1)).ravel().tolist() == [False, True]
    assert read_arrays(tmp_path, (0, 1, 0)) == {}


def test_a_damaged_record_is_set_aside_and_its_block_is_not_done(tmp_path):
    write_record(tmp_path, (0, 0, 0), sample())
    path = record_path(tmp_path, (0, 0, 0))
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedRecord, match="run the same command again"):
        read_record(tmp_path, (0, 0, 0), Sample)
    assert not done_mask(tmp_path, (1, 1, 1)).any()


def test_an_array_that_a_record_lacks_is_named():
    with pytest.raises(KeyError, match="the record has no array 'low' for Sums"):
        unpack(Sums, {"voxels": np.arange(3)})


@pytest.mark.parametrize("content", [b"", bytes(4), b"cut"])
def test_every_later_reader_of_a_damaged_record_is_told_the_same(tmp_path, content):
    write_record(tmp_path, (0, 0, 0), sample())
    record_path(tmp_path, (0, 0, 0)).write_bytes(content)
    for _ in range(2):
        with pytest.raises(DamagedRecord, match="run the same command again"):
            read_record(tmp_path, (0, 0, 0), Sample)
