"""What the docs say is what the code does."""

import doctest
import importlib
import pkgutil
import re

import pytest
from recipes import ROOT

import synpol


def test_the_page_of_config_keys_is_up_to_date():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    page = (ROOT / "docs" / "config.md").read_text()
    assert page == generate.config_page(), "run: python docs/generate.py"
    table = (ROOT / "docs" / "table.md").read_text()
    assert table == generate.table_page(), "run: python docs/generate.py"


MODULES = [m.name for m in pkgutil.walk_packages(synpol.__path__, "synpol.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").glob("*.md")))
def test_local_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links {target}"


def test_the_commands_that_the_readme_shows_exist():
    text = (ROOT / "README.md").read_text()
    named = set(re.findall(r"(?:pipelines|benchmarks|configs)/[\w.]+\.(?:py|yaml)", text))
    assert named
    assert all((ROOT / name).exists() for name in named), named
    targets = re.findall(r"^make ([\w-]+)", text, re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text()
    assert targets
    assert all(f"\n{target}:" in makefile for target in targets)
