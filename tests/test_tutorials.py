"""The code of the tutorials runs as it stands, block after block; and the site can be made."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from recipes import ROOT
from test_slurm import cluster  # noqa: F401 a fixture

TUTORIALS = ROOT / "docs" / "tutorials"
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def blocks_of(page: Path) -> list[tuple[str, str]]:
    """Language and text of every block of code."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def follow(page, folder, run):
    """Do what a page says, in a folder that looks like a clone."""
    for name in ("pipelines", "configs"):
        (folder / name).symlink_to(ROOT / name)
    blocks = blocks_of(page)
    assert {language for language, _ in blocks} <= {"yaml", "python", "bash"}
    for language, text in blocks:
        name = re.match(r"# (\w+\.(?:yaml|py))\n", text)
        if name:
            (folder / name[1]).write_text(text)
            continue
        assert language != "yaml", f"a file without a name: {text}"
        wrapped = [sys.executable, "-c", text]
        if language == "bash":
            wrapped = ["bash", "-euc", text]
        done = run(wrapped)
        failed = done.returncode != 0
        assert failed == ("# fails" in text), (
            f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        )


@pytest.mark.parametrize(
    "name",
    [
        "train",
        "stage",
        pytest.param("read", marks=pytest.mark.browser),
        pytest.param("review", marks=pytest.mark.slow),  # it trains twice
    ],
)
def test_the_code_of_a_tutorial_runs(name, tmp_path):
    def run(command):
        return subprocess.run(
            command,
            cwd=tmp_path,
            env=os.environ | {"PATH": PATH},
            capture_output=True,
            text=True,
            timeout=600,
        )

    follow(TUTORIALS / f"{name}.md", tmp_path, run)


@pytest.mark.slurm
def test_the_code_of_the_tutorial_about_clusters_runs_on_one(cluster, tmp_path):  # noqa: F811
    def run(command):
        process = cluster.popen(
            ["env", f"DAISY_HOST={cluster.controller}", *command],  # one of two addresses
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        out, error = process.communicate(timeout=600)
        return subprocess.CompletedProcess(command, process.returncode, out, error)

    follow(TUTORIALS / "predict.md", tmp_path, run)


def test_every_tutorial_is_run():
    assert {p.stem for p in TUTORIALS.glob("*.md")} == {
        "train",
        "read",
        "predict",
        "review",
        "stage",
    }


def test_the_site_is_made_without_a_warning_and_fetches_nothing_from_elsewhere(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", str(ROOT / "docs")]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    pages = {str(p.relative_to(tmp_path)): p.read_text() for p in tmp_path.glob("**/*.html")}
    tutorials = {
        f"tutorials/{name}.html" for name in ("train", "predict", "read", "review", "stage")
    }
    assert {"index.html", "api.html", "config.html", "scene.html", "review.html"} <= set(pages)
    assert tutorials <= set(pages)
    assert (
        "decode_blockwise" in pages["api.html"]
        and "Voxels (z, y, x) that a worker" in pages["api.html"]
    )
    for name, text in pages.items():
        loaded = re.findall(r"<(?:script|img|iframe|link)[^>]+(?:src|href)=\"(\w+://[^\"]+)", text)
        assert loaded == [], f"{name} loads {loaded}"
