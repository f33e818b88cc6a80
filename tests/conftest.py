"""Shared by all tests: a skip is a failure in CI, and hypothesis is reproducible there."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile(
    "default", deadline=None, suppress_health_check=list(hypothesis.HealthCheck), derandomize=True
)
hypothesis.settings.load_profile("default")

#: real sections; only tests read them
REAL = Path(__file__).resolve().parents[2] / "shared" / "data"
VNC = REAL / "vnc"


@pytest.fixture(scope="session")
def vnc() -> Path:
    """Folder of real ssTEM sections with synapse masks."""
    if not VNC.is_dir():
        pytest.skip(f"data: no real sections at {VNC}")
    return VNC


@pytest.fixture(scope="session")
def fafb_pb() -> Path:
    """Folder of manual and predicted links of the protocerebral bridge of a fly."""
    if not (REAL / "fafb_pb").is_dir():
        pytest.skip(f"data: no real links at {REAL / 'fafb_pb'}")
    return REAL / "fafb_pb"


@pytest.fixture(scope="session")
def microns() -> Path:
    """File with one synapse of mouse cortex and both of its cells."""
    file = REAL / "microns_synapse" / "pinky100_synapse400_full.npz"
    if not file.is_file():
        pytest.skip(f"data: no real synapse at {file}")
    return file


#: files that take longest; one that began last would keep one process waiting for the other
LONG = (
    "test_tutorials",
    "test_slurm",
    "test_faults",
    "test_training",
    "test_old_results",
    "test_full_disk",
    "test_power_cut",
    "test_review",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest."""
    place = {name: i for i, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    report = yield
    reason = str(report.longrepr)
    # a missing GPU or licence-bound data set may be skipped; a missing program may not
    if report.skipped and os.environ.get("CI") and "GPU" not in reason and "data:" not in reason:
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where everything has to run: {reason}"
    return report
