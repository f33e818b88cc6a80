"""docs/safety.md: every promise and every figure names its tests, and they exist."""

from __future__ import annotations

import ast
import re

import pytest
from recipes import ROOT


def functions_of(name: str) -> set[str]:
    tree = ast.parse((ROOT / "tests" / name).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(
    ("section", "column", "least"), [("What can happen", 4, 12), ("What is tried at random", 4, 16)]
)
def test_every_row_names_tests_that_exist(section, column, least):
    page = (ROOT / "docs" / "safety.md").read_text()
    text = page.partition(f"## {section}")[2].partition("\n## ")[0]
    rows = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert len(rows) >= least
    for row in rows:
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", row.split("|")[column])
        assert named, row
        for file, test in named:
            assert test in functions_of(file), (file, test)
