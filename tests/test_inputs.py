"""Files of many writers are read as they were meant, and train and predict as plain Zarr does."""

import sys

import pytest
from recipes import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
from input_files import all_files
from input_files.trial import Trial

FILES = list(all_files())


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    """A tiny network, and plain Zarr images to compare with."""
    return Trial(tmp_path_factory.mktemp("trial"))


@pytest.mark.parametrize("way", ["in place", "import"])
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_file_is_read_as_it_was_meant_or_refused(trial, tmp_path, file, way):
    if way not in file.ways:
        return
    found = trial.outcome(file, way, tmp_path)
    assert found.result == ("refused" if file.values is None else "right"), found.note
    if found.result == "refused":
        assert str(tmp_path) in found.note


def test_there_are_many_files_of_many_writers():
    assert len(FILES) >= 60
    assert len({file.writer for file in FILES}) >= 15
    assert len({file.name for file in FILES}) == len(FILES)


def test_a_wrong_value_size_or_place_does_not_pass(trial, tmp_path):
    right = next(file for file in FILES if file.values is not None and file.placed)
    values = right.values.copy()
    values[0, 0, 0] += 1
    for number, (change, note) in enumerate(
        [({"values": values}, "other values"), ({"placed": False}, "offset")]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        wrong = type(right)(**{**vars(right), **change})
        found = trial.outcome(wrong, "in place", folder)
        assert found.result == "wrong"
        assert note in found.note
