"""Names are not code: what a job's script, a lock's folder or a process list would give away."""

from __future__ import annotations

import os
import stat
from types import SimpleNamespace

import pytest
import torch
from finished import finish
from recipes import run_refused, tiny_config, tiny_volume

from synpol import InputError
from synpol.blockwise.driver import Driver
from synpol.blockwise.submission import submission_of
from synpol.config import Workers
from synpol.model import device

ODD = ["a\nrm -rf x", "a\rb", "a\x1b[31m", "a\x00b", "a\u2028b", "a\x7f", "a\x85b"]


@pytest.mark.parametrize("value", [*ODD, "a\tb"])
@pytest.mark.parametrize("key", ["queue", "account", "host", "options"])
def test_control_characters_in_names_are_refused(key, value):
    given = {"executor": "slurm", key: {"comment": value} if key == "options" else value}
    with pytest.raises(ValueError, match=key):
        Workers.model_validate(given)


@pytest.mark.parametrize("value", ["a$(b)", "a`b`", 'a"b', "a'b", "a\\b"])
@pytest.mark.parametrize("key", ["queue", "account"])
def test_code_in_names_is_refused(key, value):
    with pytest.raises(ValueError, match=key):
        Workers.model_validate({"executor": "pbs", key: value})


@pytest.mark.parametrize("value", ["it's", 'a"b'])
def test_quotes_in_options_are_refused_since_they_end_the_option(value):
    with pytest.raises(ValueError, match="without quotes"):
        Workers(executor="lsf", options={"comment": value})


@pytest.mark.parametrize("line", ODD)
@pytest.mark.parametrize("executor", ["slurm", "local"])
def test_a_line_of_setup_is_one_line(executor, line):
    with pytest.raises(ValueError, match="setup holds"):
        Workers(executor=executor, setup=["module load cuda", line])
    assert Workers(executor=executor, setup=["export A='b c';\tmodule load cuda"]).setup


@pytest.mark.parametrize("executor", ["slurm", "lsf", "pbs"])
def test_options_stay_in_lines_of_the_scheduler(tmp_path, executor):
    settings = Workers(
        executor=executor,
        queue="gpu",
        account="lab-1",
        options={"comment": "a b; touch made && $(touch made)"},
    )
    script = submission_of(settings, 1, 0, ["/bin/bash", "worker.sh"], tmp_path)
    assert "touch made" in script
    assert all(line.startswith("#") for line in script.splitlines() if "touch made" in line)


@pytest.mark.parametrize("name", ["a$(touch made)", "a`b`", "it's", 'a"b', "a\\b", "a\nb"])
def test_folders_whose_names_are_code_are_refused_for_clusters_alone(tmp_path, monkeypatch, name):
    settings = Workers(executor="slurm")
    with pytest.raises(InputError, match=r"workers\.work_dir"):
        Driver(tmp_path / name, "test", settings=settings)
    assert not (tmp_path / name).exists()
    with Driver(tmp_path / name, "test", settings=Workers()):
        pass
    monkeypatch.chdir(tmp_path / name)
    with pytest.raises(InputError, match="start the command in another folder"):
        Driver(tmp_path / "work", "test", settings=settings)


def test_a_dry_run_refuses_a_folder_whose_name_is_code(tmp_path, capsys):
    config = finish(tmp_path)
    arguments = ("--only", "decode", "--dry-run", "workers.executor=slurm")
    folder = f"workers.work_dir={tmp_path}/a$b"
    assert "a$b" in run_refused(capsys, "predict_blockwise", config, *arguments, folder)


@pytest.fixture
def gpus(monkeypatch, tmp_path):
    """Two GPUs as torch describes them, and a folder for temporary files."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    described = SimpleNamespace(uuid="one")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: described)
    monkeypatch.setattr(device.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(device, "_taken", {})
    return tmp_path / f"synpol-gpus-{os.getuid()}"


def test_the_folder_of_locks_is_of_this_user_alone(gpus):
    old = os.umask(0)
    try:
        gpus.mkdir(mode=0o777)  # as older versions made it, under a careless umask
        assert device._free_gpu() == 0
    finally:
        os.umask(old)
    assert stat.S_IMODE(gpus.stat().st_mode) == 0o700
    assert stat.S_IMODE((gpus / "one").stat().st_mode) == 0o600


def test_a_folder_of_locks_that_somebody_else_has_made_is_refused(gpus, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    gpus.symlink_to(other)
    with pytest.raises(InputError, match="TMPDIR"):
        device._free_gpu()
    gpus.unlink()
    gpus.write_text("a file")
    with pytest.raises(InputError, match="TMPDIR"):
        device._free_gpu()
    gpus.unlink()
    if os.geteuid() == 0:
        gpus.mkdir()
        os.chown(gpus, 12345, -1)
        with pytest.raises(InputError, match="belongs to somebody else"):
            device._free_gpu()
    assert not list(other.iterdir())


def test_a_lock_that_is_a_link_is_not_followed(gpus, tmp_path):
    gpus.mkdir(mode=0o700)
    (gpus / "one").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        device._free_gpu()
    assert not (tmp_path / "elsewhere").exists()


def test_a_command_names_the_key_of_a_name_that_is_code(tmp_path, capsys):
    tiny_volume(tmp_path / "data")
    config = tiny_config(tmp_path, workers={"executor": "lsf", "queue": "a\nb"})
    message = run_refused(capsys, "predict_blockwise", config)
    assert "workers" in message and "queue" in message
