"""Records and the array that they speak of: another array in its place is never believed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from recipes import write
from volumes import random_polarity, write_polarity

import synpol.decoding.relabel as relabel
from synpol import InputError, decode_blockwise
from synpol.blockwise import ImageStage, run_image_stage
from synpol.files import is_url
from synpol.images.claim import ID
from synpol.images.image import open_image


class Case:
    """A small prediction, and what it is decoded to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        volume = random_polarity(0, (8, 40, 40), 2, 0.2, "uint8")
        self.prediction = write_polarity(folder, volume)
        self.decode("expected", "w0")
        self.expected = self.instances("expected")

    def decode(self, output: str, work: str) -> None:
        decode_blockwise(
            self.prediction,
            self.place(output),
            block_shape=(8, 20, 20),
            thres_small=4,
            work_dir=self.folder / work,
        )

    def place(self, output: str) -> str:
        return output if is_url(output) else f"{self.folder}/{output}"

    def instances(self, output: str) -> np.ndarray:
        return np.asarray(open_image(f"{self.place(output)}/instances").array[:])

    def stop_after(self, blocks: int, output: str, work: str) -> None:
        """Decode until some blocks are written, as a run that is killed then."""
        with pytest.MonkeyPatch.context() as patch:
            write, left = relabel.RelabelStage.write, [blocks]

            def until(stage: relabel.RelabelStage, *given: object) -> None:
                if not left[0]:
                    raise KeyboardInterrupt
                left[0] -= 1
                write(stage, *given)  # type: ignore[arg-type]

            patch.setattr(relabel.RelabelStage, "write", until)
            with pytest.raises(KeyboardInterrupt):
                self.decode(output, work)

    def hide_sizes(self, patch: pytest.MonkeyPatch) -> None:
        """Let records note no sizes, as those of a remote array."""
        patch.setattr("synpol.images.blocks.stored_sizes", lambda *_: None)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_finished_array_has_no_id_and_an_unfinished_one_has(case):
    case.stop_after(2, "out", "w1")
    id_file = case.folder / "out/instances/s0" / ID
    (records,) = (case.folder / "w1").glob("decode-*/relabel-*")
    assert id_file.read_text() == (records / ID).read_text()
    case.decode("out", "w1")
    assert files(case.folder / "out") == files(case.folder / "expected")


def test_a_run_that_was_killed_before_it_removed_the_id_leaves_none(tmp_path):
    class Copied(ImageStage):
        """The same voxels."""

        name = "copied"
        version = 1

        def transform(self, voxels):
            return voxels

    write(tmp_path, "raw", np.arange(512, dtype=np.uint8).reshape(8, 8, 8))
    given = {"block_shape": (4, 8, 8), "work_dir": tmp_path / "work"}
    run_image_stage(Copied(), tmp_path / "raw", tmp_path / "out", **given)
    expected = files(tmp_path / "out")
    (tmp_path / "out" / "copied" / "s0" / ID).write_text("left")
    run_image_stage(Copied(), tmp_path / "raw", tmp_path / "out", **given)
    assert files(tmp_path / "out") == expected


@pytest.mark.parametrize("sizes", [True, False])
def test_records_of_an_array_that_was_removed_and_begun_anew_are_not_believed(
    case, monkeypatch, sizes
):
    if not sizes:
        case.hide_sizes(monkeypatch)
    case.decode("out", "w1")
    shutil.rmtree(case.folder / "out")
    case.stop_after(1, "out", "w2")
    case.decode("out", "w1")
    assert np.array_equal(case.instances("out"), case.expected)


@pytest.mark.parametrize("sizes", [True, False])
def test_records_are_not_believed_of_an_unfinished_copy(case, monkeypatch, sizes):
    if not sizes:
        case.hide_sizes(monkeypatch)
    case.stop_after(1, "other", "w2")
    case.decode("out", "w1")
    shutil.rmtree(case.folder / "out")
    shutil.copytree(case.folder / "other", case.folder / "out")
    case.decode("out", "w1")
    assert np.array_equal(case.instances("out"), case.expected)


def test_records_of_a_remote_array_are_not_believed_of_another(case):
    import fsspec

    remote, memory = "memory://array-ids/out", fsspec.filesystem("memory")
    case.decode(remote, "w1")
    memory.rm("array-ids/out", recursive=True)
    case.stop_after(1, remote, "w2")
    assert memory.exists(f"array-ids/out/instances/s0/{ID}")
    case.decode(remote, "w1")
    assert np.array_equal(case.instances(remote), case.expected)
    assert not memory.exists(f"array-ids/out/instances/s0/{ID}")


def test_an_unfinished_array_and_its_own_records_go_on(case):
    case.stop_after(3, "out", "w1")
    (records,) = (case.folder / "w1").glob("decode-*/relabel-*")
    before = {p: p.stat().st_mtime_ns for p in records.rglob("*.record")}
    assert len(before) == 3
    case.decode("out", "w1")
    assert all(p.stat().st_mtime_ns == changed for p, changed in before.items())


def test_records_without_an_id_go_on_with_an_array_without_one(case):
    case.stop_after(3, "out", "w1")
    (records,) = (case.folder / "w1").glob("decode-*/relabel-*")
    for folder in (records, case.folder / "out/instances/s0"):
        (folder / ID).unlink()
    before = {p: p.stat().st_mtime_ns for p in records.rglob("*.record")}
    case.decode("out", "w1")
    assert all(p.stat().st_mtime_ns == changed for p, changed in before.items())
    assert np.array_equal(case.instances("out"), case.expected)


def replace(output: Path) -> None:
    other = next(p for p in output.parent.iterdir() if p.name == "other")
    shutil.rmtree(output)
    shutil.copytree(other, output)


@pytest.mark.parametrize("harm", [shutil.rmtree, replace])
def test_an_output_that_changes_while_it_is_written_is_never_called_finished(
    case, monkeypatch, harm
):
    case.stop_after(1, "other", "w2")
    write, count = relabel.RelabelStage.write, [0]

    def harmed(stage: relabel.RelabelStage, *given: object) -> None:
        write(stage, *given)  # type: ignore[arg-type]
        count[0] += 1
        if count[0] == 2:
            harm(case.folder / "out")

    monkeypatch.setattr(relabel.RelabelStage, "write", harmed)
    case.hide_sizes(monkeypatch)
    with pytest.raises(InputError, match=r"removed or replaced while it was written.*run this"):
        case.decode("out", "w1")
    monkeypatch.undo()
    # as the message says; nothing is left where no block was written after the harm
    shutil.rmtree(case.folder / "out/instances", ignore_errors=True)
    case.decode("out", "w1")
    assert np.array_equal(case.instances("out"), case.expected)
