"""Power cuts: what counts as done is on the disk before it counts as done."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest
from recipes import run
from volumes import random_polarity, write_polarity

from synpol import decode_blockwise
from synpol.blockwise.records import record_path
from synpol.files import whole_file, whole_folder, write_whole
from synpol.images.image import open_image


class Disk:
    """Note what is synced to the disk, and which names files get, in order."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.events: list[tuple[str, Path]] = []
        fsync, replace = os.fsync, os.replace

        def noted_fsync(descriptor: int) -> None:
            self.events.append(("synced", Path(os.readlink(f"/proc/self/fd/{descriptor}"))))
            fsync(descriptor)

        def noted_replace(source: object, target: object) -> None:
            replace(source, target)  # type: ignore[type-var]
            self.events.append(("named", Path(str(target))))

        patch.setattr(os, "fsync", noted_fsync)
        patch.setattr(os, "replace", noted_replace)

    def at(self, what: str, path: Path) -> int:
        """When something was done with a path for the first time."""
        return self.events.index((what, path))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def test_a_file_is_on_the_disk_before_its_name_and_the_name_at_the_end(tmp_path, disk):
    with whole_file(tmp_path / "table") as temporary:
        temporary.write_text("rows")
    table = tmp_path / "table"
    order = [("synced", temporary), ("named", table), ("synced", tmp_path)]
    assert disk.events == order
    disk.events.clear()
    write_whole(tmp_path / "beat", b"1", sync=False)
    assert disk.events == [("named", tmp_path / "beat")]


def test_all_files_of_a_folder_are_on_the_disk_before_its_name(tmp_path, disk):
    with whole_folder(tmp_path / "scene") as new:
        (new / "by_id").mkdir()
        for name in ("info", "by_id/0"):
            (new / name).write_text(name)
        assert not disk.events
    places = [new, new / "info", new / "by_id", new / "by_id/0"]
    assert {path for _, path in disk.events[:4]} == set(places)
    assert disk.events[4:] == [("synced", tmp_path)]


def test_voxels_are_on_the_disk_before_the_record_of_their_block(tmp_path, disk):
    prediction = write_polarity(tmp_path, random_polarity(0, (8, 40, 40), 2, 0.2, "uint8"))
    decode_blockwise(prediction, tmp_path / "out", block_shape=(8, 20, 20), thres_small=4)
    instances = tmp_path / "out/instances/s0"
    chunks = [path for path in instances.rglob("c/**/*") if path.is_file()]
    (records,) = (tmp_path / "out.work").glob("decode-*/relabel-*")
    assert len(chunks) == 4
    for chunk in chunks:
        z, y, x = (int(number) for number in chunk.parts[-3:])
        named = disk.at("named", record_path(records, (z, y, x)))
        for place in (chunk, *chunk.parents[:4]):
            assert disk.at("synced", place) < named
        assert disk.at("synced", record_path(records, (z, y, x))) > named
    assert all(disk.events.count(("synced", chunk)) == 1 for chunk in chunks)
    marked = disk.at("synced", instances / "zarr.json")
    assert all(disk.at("synced", chunk) < marked for chunk in chunks)


def test_the_tables_and_their_folder_are_on_the_disk(tmp_path, disk):
    from finished import finish

    finish(tmp_path, "connect")
    names = ("synapses", "links", "parts", "partners", "connectivity")
    for file in (tmp_path / "result" / f"{name}.parquet" for name in names):
        assert disk.at("synced", file.with_name(f"{file.name}.tmp")) < disk.at("named", file)
        assert ("synced", file.parent) in disk.events[disk.at("named", file) :]


def test_a_checkpoint_is_on_the_disk_before_its_name(tmp_path, disk):
    from recipes import tiny_config, tiny_volume

    tiny_volume(tmp_path / "data")
    assert run("train", tiny_config(tmp_path)) == 0
    named = [path for what, path in disk.events if what == "named" and path.suffix == ".pt"]
    assert named
    for path in named:
        assert disk.at("synced", path.with_name(f"{path.name}.tmp")) < disk.at("named", path)


def test_a_decoding_goes_on_after_a_power_cut_has_emptied_its_records(tmp_path):
    volume = random_polarity(0, (8, 40, 40), 2, 0.2, "uint8")
    prediction, given = write_polarity(tmp_path, volume), {"block_shape": (8, 20, 20)}
    decoded = decode_blockwise(prediction, tmp_path / "out", thres_small=4, **given)
    expected = open_image(decoded.instances).array[:]
    emptied = sorted((tmp_path / "out.work").rglob("*.record"))[::2]
    for record in emptied:
        os.truncate(record, 0)
    for _ in emptied:  # each error sets aside what is damaged
        with contextlib.suppress(RuntimeError):
            decode_blockwise(prediction, tmp_path / "out", thres_small=4, **given)
            break
    assert np.array_equal(open_image(decoded.instances).array[:], expected)
