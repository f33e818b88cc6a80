"""Instances as a precomputed segmentation, read back by tensorstore."""

import json

import numpy as np
import pytest
import tensorstore
from recipes import run, run_refused, tiny_config, write

from synpol.config import ImageSource
from synpol.errors import InputError
from synpol.images.downsampling import label_of_cells, level_factors
from synpol.images.image import open_image
from synpol.synapses import segmentation
from synpol.synapses.segmentation import SegmentationStage, write_segmentation

SHAPE = (40, 150, 170)


@pytest.fixture
def instances(tmp_path, monkeypatch):
    """Labels of which a third is 0, and chunks so small that there are many."""
    monkeypatch.setattr(segmentation, "CHUNK", 16)
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 2**40, (20, 30, 34), dtype=np.uint64)
    coarse[rng.random(coarse.shape) < 0.4] = 0
    coarse[:, :8] = 0  # whole shards without a label
    values = coarse.repeat(2, 0).repeat(5, 1).repeat(5, 2)
    write(tmp_path, "instances", values, voxel_size=(30, 8, 8), offset=(-90, 40, 8))
    return open_image(tmp_path / "instances")


def scales(place):
    """Each resolution, with its voxel size, first voxel and values (z, y, x)."""
    info = json.loads((place / "info").read_text())
    for number, about in enumerate(info["scales"]):
        stored = tensorstore.open(
            {
                "driver": "neuroglancer_precomputed",
                "kvstore": {"driver": "file", "path": f"{place}/"},
                "scale_index": number,
            },
            open=True,
        ).result()
        yield about, stored.T[0].read().result()
        whole = open_image(  # every chunk is there
            ImageSource(path=str(place), voxel_size=about["resolution"][::-1])
        )
        assert np.array_equal(whole.array[:], stored.T[0].read().result())


def expected_levels(values, begin, size):
    """Each level from the one before, its cells at multiples of their size from the world's 0."""
    begin = list(begin)
    yield begin, values
    for factors in level_factors(values.shape, size):
        first = [b // f for b, f in zip(begin, factors, strict=True)]
        before = [(b - f * a, 0) for b, a, f in zip(begin, first, factors, strict=True)]
        values, begin = label_of_cells(np.pad(values, before), factors), first
        yield begin, values


def files(place):
    return {str(p.relative_to(place)): p.read_bytes() for p in place.rglob("*") if p.is_file()}


def test_every_resolution_comes_back_as_it_was(instances, tmp_path):
    place = tmp_path / "segmentation"
    count = write_segmentation(instances, str(place), work_dir=tmp_path / "work")
    found = list(scales(place))
    values, size = instances.array[:], np.array([30, 8, 8])
    expected = list(expected_levels(values, (-3, 5, 1), size))
    assert len(found) == len(expected) == count == 2
    for (about, read), (begin, voxels) in zip(found, expected, strict=True):
        assert about["voxel_offset"][::-1] == begin
        assert np.array_equal(read, voxels)
    assert [about["resolution"] for about, _ in found] == [[8, 8, 30], [16, 16, 30]]
    assert "sharding" in found[0][0]
    image = open_image(f"precomputed://{place}")
    assert (image.offset_nm, image.voxel_size_nm) == (instances.offset_nm, (30, 8, 8))
    assert np.array_equal(image.array[:], values)


def test_a_killed_writer_is_finished_and_the_bytes_are_the_same(instances, tmp_path, monkeypatch):
    work = tmp_path / "work"
    write_segmentation(instances, str(tmp_path / "whole"), work_dir=work)
    place = tmp_path / "parts"
    compute, done = SegmentationStage.compute, []

    def stopping(self, index, opened, given):
        done.append(index)
        if len(done) == 4:
            raise KeyboardInterrupt
        return compute(self, index, opened, given)

    monkeypatch.setattr(SegmentationStage, "compute", stopping)
    with pytest.raises(KeyboardInterrupt):
        write_segmentation(instances, str(place), work_dir=work)
    (place / "8_8_30" / "00.shard.__lock").write_bytes(b"")  # as a killed writer leaves it
    write_segmentation(instances, str(place), work_dir=work)
    shards = len([name for name in files(place) if name.endswith(".shard")])
    assert 4 < shards < len(done) <= shards + 10  # blocks that were done were not done again
    assert files(place) == files(tmp_path / "whole")
    count = len(done)
    write_segmentation(instances, str(place), work_dir=work)
    assert len(done) == count


def test_other_instances_replace_what_was_written_and_nothing_else(instances, tmp_path):
    place, work = tmp_path / "segmentation", tmp_path / "work"
    write_segmentation(instances, str(place), work_dir=work)
    smaller = np.ones((8, 20, 20), np.uint64)
    write(tmp_path, "others", smaller, voxel_size=(30, 8, 8))
    others = open_image(tmp_path / "others")
    write_segmentation(others, f"precomputed://{place}", work_dir=work)
    [(_, read)] = scales(place)
    assert np.array_equal(read, smaller)
    assert files(place).keys() == {"info", "provenance", "8_8_30/0.shard"}
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "info").write_text("{}")
    with pytest.raises(InputError, match="foreign exists and was not written by synpol"):
        write_segmentation(others, str(foreign), work_dir=work)
    assert files(foreign) == {"info": b"{}"}


def test_a_place_between_two_voxels_is_told(tmp_path, caplog):
    write(tmp_path, "instances", np.ones((4, 4, 4), np.uint16), offset=(-15, -8, 24))
    image = open_image(tmp_path / "instances")
    write_segmentation(image, str(tmp_path / "out"), work_dir=tmp_path / "work")
    assert "lies (15, 8, 8) nm (z, y, x) beside it" in caplog.text
    [(about, read)] = scales(tmp_path / "out")
    assert about["voxel_offset"] == [2, 0, 0] and read.all()


def test_the_command_writes_it(tmp_path, capsys):
    volume = np.zeros((3, 8, 40, 40), np.uint8)
    volume[:, 2:5, 4:8, 4:12] = 255
    volume[0, :, :, 8:], volume[1, :, :, :8] = 0, 0
    write(tmp_path / "result", "polarity", volume)
    config = tiny_config(tmp_path)
    assert run("predict_blockwise", config, "--only", "decode") == 0
    (tmp_path / "result" / "synapses.parquet").unlink()  # not needed
    place = tmp_path / "segmentation"
    assert run("table", config, "--precomputed", place) == 0
    assert f"1 resolutions in {place}" in capsys.readouterr().out
    [(_, read)] = scales(place)
    labels = open_image(tmp_path / "result" / "instances").array[:]
    assert np.array_equal(read, labels) and set(np.unique(read)) == {0, 1, 2}
    assert "--precomputed" in run_refused(capsys, "table", config)
    (tmp_path / "file").write_text("")
    assert "file" in run_refused(capsys, "table", config, "--precomputed", tmp_path / "file")
