"""What the docs say is what the code does."""

import ast
import doctest
import importlib
import pkgutil
import re

import numpy as np
import pytest
from recipes import ROOT

import synpol
from synpol.images.writing import create_image


def test_the_page_of_config_keys_is_up_to_date():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    page = (ROOT / "docs" / "config.md").read_text()
    assert page == generate.config_page(), "run: python docs/generate.py"
    table = (ROOT / "docs" / "table.md").read_text()
    assert table == generate.table_page(), "run: python docs/generate.py"
    decoding = (ROOT / "docs" / "decoding.md").read_text()
    assert decoding == generate.decoding_page(), "run: python docs/generate.py"
    formats = (ROOT / "docs" / "formats.md").read_text()
    assert formats == generate.formats_page(), "run: python docs/generate.py"


MODULES = ["synpol", *(m.name for m in pkgutil.walk_packages(synpol.__path__, "synpol."))]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # examples write into the folder that they are run in
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("name", sorted(set(synpol.__all__) - {"InputError"}))
def test_what_synpol_offers_has_examples(name):
    assert ">>>" in getattr(synpol, name).__doc__


@pytest.mark.parametrize("page", sorted(PAGES), ids=lambda p: str(p.relative_to(ROOT)))
def test_local_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links {target}"


def raised_in(tree: ast.AST) -> list[str]:
    """The texts of exceptions, without what is filled in."""
    raised = [n for n in ast.walk(tree) if isinstance(n, ast.Raise)]
    return [
        "".join(
            c.value for c in ast.walk(r) if isinstance(c, ast.Constant) and type(c.value) is str
        )
        for r in raised
    ]


def test_messages_of_the_library_say_where_commands_are():
    """Who installed synpol with pip has no folder pipelines/."""
    naming = []
    for file in sorted((ROOT / "synpol").rglob("*.py")):
        texts = raised_in(ast.parse(file.read_text()))
        naming += [text for text in texts if "pipelines/" in text]
    assert naming
    assert all("of synpol's repository" in text for text in naming), naming


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    polarity = np.zeros((3, 8, 32, 32), np.uint8)
    polarity[0, 2:6, 8:16, 8:16] = polarity[1, 2:6, 8:16, 16:24] = 255
    polarity[2] = polarity.max(axis=0)
    create_image(
        "volume",
        "polarity",
        shape=polarity.shape,
        dtype=polarity.dtype,
        voxel_size=(30, 16, 16),
        offset=(0, 0, 0),
        unit="nm",
        chunk_shape=(3, 8, 16, 16),
    ).array[:] = polarity
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
    assert blocks
    names: dict = {}
    for block in blocks:
        exec(block, names)
    assert len(names["synapses"]) == 1


def test_the_commands_that_the_readme_shows_exist():
    text = (ROOT / "README.md").read_text()
    named = set(re.findall(r"(?:pipelines|benchmarks|configs)/[\w.]+\.(?:py|yaml)", text))
    assert named
    assert all((ROOT / name).exists() for name in named), named
    targets = re.findall(r"^make ([\w-]+)", text, re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text()
    assert targets
    assert all(f"\n{target}:" in makefile for target in targets)
