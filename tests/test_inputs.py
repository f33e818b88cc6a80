"""Files of many writers are read as they were meant, and the page about them says so."""

import importlib.util
import sys

import pytest
from recipes import ROOT


@pytest.fixture
def inputs(monkeypatch):
    """The module benchmarks/inputs.py."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    spec = importlib.util.spec_from_file_location("inputs", ROOT / "benchmarks" / "inputs.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "inputs", module)
    spec.loader.exec_module(module)
    return module


def test_files_of_many_writers_are_right_or_refused_as_the_page_says(inputs):
    results = inputs.outcomes()
    wrong = [f"{one.file.writer}, {one.file.about}, {one.way}: {one.note}" for one in results]
    wrong = [text for text, one in zip(wrong, results, strict=True) if one.result == "wrong"]
    assert wrong == []
    assert len({id(one.file) for one in results}) >= 60
    assert len({one.file.writer for one in results}) >= 15
    text = inputs.PAGE.read_text()
    assert text == inputs.with_table(text, results), "run: python benchmarks/inputs.py --page"
