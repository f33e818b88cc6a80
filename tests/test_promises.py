"""docs/safety.md: every promise names its tests, and they exist."""

from __future__ import annotations

import ast
import re

from recipes import ROOT


def functions_of(name: str) -> set[str]:
    tree = ast.parse((ROOT / "tests" / name).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_row_of_what_can_happen_names_tests_that_exist():
    page = (ROOT / "docs" / "safety.md").read_text()
    section = page.partition("## What can happen")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][2:]
    assert len(rows) >= 12
    for row in rows:
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", row.split("|")[4])
        assert named, row
        for file, test in named:
            assert test in functions_of(file), (file, test)
