"""Where workers run and how they are submitted."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time

import pytest
import standin_schedulers
from recipes import run_refused, tiny_config
from volumes import random_polarity, write_polarity

import synpol
from synpol.blockwise import driver as driver_module
from synpol.blockwise import pool as workers_module
from synpol.blockwise import schedulers, submission
from synpol.blockwise.schedulers.local import Local
from synpol.command import keys_text
from synpol.config import Workers
from synpol.errors import InputError
from synpol.images.image import open_image


@pytest.fixture
def standins(tmp_path, monkeypatch):
    programs = standin_schedulers.install(tmp_path / "scheduler")
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(submission, "POLL", 1)
    monkeypatch.setattr(driver_module, "DRIVER_VOXELS", 0)
    monkeypatch.setattr(driver_module, "DRIVER_VOXELS_WITH_WORKERS", 0)
    return tmp_path / "scheduler" / "jobs"


def decode(tmp_path, workers):
    tmp_path.mkdir(exist_ok=True)
    volume = random_polarity(3, (8, 60, 60), 8, 0.05, "uint8")
    prediction = write_polarity(tmp_path, volume, (4, 20, 20))
    out = tmp_path / "out"
    synpol.decode_blockwise(
        prediction, out, block_shape=(4, 20, 20), num_workers=2, thres_small=5, workers=workers
    )
    expected = synpol.polarity2instance(volume, thres_small=5)
    assert (open_image(out / "instances").array[:] == expected).all()


def submitted(jobs):
    return [p.read_text() for p in sorted(jobs.glob("*.script"))]


def assert_asks_for(script, *lines):
    for line in lines:
        assert line in script.splitlines(), script


def test_lsf_gets_well_formed_submissions_and_its_jobs_do_the_work(tmp_path, standins):
    workers = Workers(
        executor="lsf", cpus=2, memory="2GB", walltime=90, queue="short", account="em",
        host="127.0.0.1", options={"R": "span[hosts=1] select[ssd]"}, setup=["export A=1"],
    )  # fmt: skip
    decode(tmp_path, workers)
    scripts = submitted(standins)
    assert len(scripts) == 2
    assert_asks_for(
        scripts[0],
        '#BSUB -n "2"',
        '#BSUB -M "2048MB"',
        "#BSUB -W 1:30",
        '#BSUB -q "short"',
        '#BSUB -P "em"',
        '#BSUB -R "span[hosts=1] select[ssd]"',
    )
    assert "-gpu" not in scripts[0]
    assert scripts[0].count("#BSUB -n ") == 1


def test_pbs_gets_well_formed_submissions_and_its_jobs_do_the_work(tmp_path, standins):
    workers = Workers(
        executor="pbs", cpus=2, memory="500MB", walltime=61, queue="short", account="em",
        host="127.0.0.1",
    )  # fmt: skip
    decode(tmp_path, workers)
    scripts = submitted(standins)
    assert len(scripts) == 2
    assert_asks_for(
        scripts[0],
        '#PBS -l "select=1:ncpus=2:mem=500mb"',
        "#PBS -l walltime=1:1:0",
        "#PBS -A em",
        "#PBS -q short",
    )
    assert scripts[0].count("select=") == 1


@pytest.mark.parametrize("executor", ["lsf", "pbs"])
def test_a_job_that_is_killed_is_replaced(tmp_path, standins, executor, monkeypatch):
    workers = Workers(executor=executor, host="127.0.0.1")
    pool_watch = driver_module.Driver._by_workers
    killed = []

    def disturbed(self, stage, done, progress):
        if stage.name == "dilate":
            [pid] = [int(p.read_text()) for p in standins.glob("101.pid")]
            os.killpg(pid, signal.SIGKILL)
            (standins / "101.killed").touch()
            killed.append(pid)
            deadline = time.monotonic() + 20
            while len(submitted(standins)) < 3 and time.monotonic() < deadline:
                time.sleep(0.1)
        return pool_watch(self, stage, done, progress)

    monkeypatch.setattr(driver_module.Driver, "_by_workers", disturbed)
    decode(tmp_path, workers)
    assert killed
    assert len(submitted(standins)) == 3


@pytest.mark.parametrize(
    ("executor", "said"), [("lsf", "nowhere: No such queue"), ("pbs", "Unknown queue")]
)
def test_a_refused_job_is_said_at_once(tmp_path, standins, executor, said):
    with pytest.raises(InputError, match=f"{executor} refused the job of a worker: .*{said}"):
        decode(tmp_path, Workers(executor=executor, queue="nowhere", host="127.0.0.1"))


def test_gpus_are_asked_for_in_each_schedulers_way(tmp_path):
    asked = {}
    for executor in ("slurm", "lsf", "pbs"):
        more = {"constraint": "a100|h100"} if executor == "slurm" else {}
        settings = Workers(
            executor=executor, gpus=1, cpus=4, memory="16GB", account="em", options=more
        )
        asked[executor] = submission.submission_of(settings, 4, 1, ["worker"], tmp_path)
    assert re.search(r"^#SBATCH --gpus-per-task=1$", asked["slurm"], re.MULTILINE)
    assert '#SBATCH --constraint="a100|h100"' in asked["slurm"]
    assert re.search(r"^#SBATCH --cpus-per-task=4$", asked["slurm"], re.MULTILINE)
    assert re.search(r"^#SBATCH --mem=16777216K$", asked["slurm"], re.MULTILINE)
    assert re.search(r'^#SBATCH --account="em"$', asked["slurm"], re.MULTILINE)
    assert '#BSUB -gpu "num=1"' in asked["lsf"]
    assert '#PBS -l "select=1:ncpus=4:ngpus=1:mem=16384mb"' in asked["pbs"]


def test_a_reason_in_many_words_does_not_end_the_polling_of_slurm():
    mended = submission.mended_class(schedulers.SCHEDULERS["slurm"])
    executor = mended.__new__(mended)
    out = (
        "JOBID ST REASON\n12 PD ReqNodeNotAvail, UnavailableNodes:n1\n"
        "13 F RaisedSignal:9(Killed)\n14 R None\n"
    )
    found = executor.parse_status_output(0, out)
    assert [found[i].state.name for i in ("12", "13", "14")] == ["QUEUED", "FAILED", "ACTIVE"]


def test_paths_with_spaces_and_quotes(tmp_path, standins):
    decode(tmp_path / "a folder", Workers(executor="lsf", host="127.0.0.1"))
    decode(tmp_path / "it's here", None)


def test_options_without_a_value_are_rendered_as_such(tmp_path):
    asked = Workers(executor="slurm", options={"exclusive": True, "requeue": False})
    lines = submission.submission_of(asked, 1, 0, ["worker"], tmp_path).splitlines()
    assert "#SBATCH --exclusive" in lines
    assert not any("requeue" in line for line in lines)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"queue": "gpu"}, "queue is given, but executor is local"),
        ({"executor": "slurm", "options": {"--qos": "x"}}, "'--qos' is no option's name"),
        ({"executor": "slurm", "memory": "0GB"}, "at least 1 MB is expected"),
    ],
)
def test_what_would_not_be_read_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        Workers(**changes)


def test_workers_that_all_die_between_stages_do_not_hang_the_next(tmp_path, standins, monkeypatch):
    """Later stages find a pool that had given up, try again, and say what the workers said."""
    by_workers = driver_module.Driver._by_workers

    def disturbed(self, stage, done, progress):
        if stage.name == "dilate":
            self._pool._script.write_text("echo no more >&2; exit 3\n")
            self._pool._give_up("a rehearsal")
            for pid in standins.glob("*.pid"):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(int(pid.read_text()), signal.SIGKILL)
        return by_workers(self, stage, done, progress)

    monkeypatch.setattr(driver_module.Driver, "_by_workers", disturbed)
    monkeypatch.setattr(workers_module, "MOST_DEATHS", 3)
    with pytest.raises(RuntimeError, match="workers ended and no block was finished"):
        decode(tmp_path, Workers(executor="lsf", host="127.0.0.1"))


@pytest.mark.parametrize(
    ("memory", "expected"), [("8GB", 8 * 2**30), ("500MB", 500 * 2**20), ("1.5 TB", 1.5 * 2**40)]
)
def test_memory_is_read(memory, expected):
    assert Workers(executor="slurm", memory=memory).memory_bytes == expected


def test_memory_without_a_unit_is_refused():
    with pytest.raises(ValueError, match="memory is '8'; a number with MB, GB or TB is expected"):
        Workers(memory="8")


@pytest.fixture
def noted(monkeypatch):
    """A scheduler that lives outside the package: this machine, and a list of submissions."""
    monkeypatch.setitem(schedulers.SCHEDULERS, "noted", None)  # gone after the test
    submissions = []

    @schedulers.register
    class Noted(Local):
        name = "noted"

        def request(self, settings, cores, gpus, name):
            submissions.append((name, cores))
            return super().request(settings, cores, gpus, name)

    return submissions


def test_a_scheduler_from_outside_runs_the_workers(tmp_path, noted, monkeypatch):
    monkeypatch.setattr(driver_module, "DRIVER_VOXELS", 0)
    monkeypatch.setattr(driver_module, "DRIVER_VOXELS_WITH_WORKERS", 0)
    decode(tmp_path, Workers(executor="noted", cpus=1))
    assert sorted(noted) == [("synpol-0", 1), ("synpol-1", 1)]


@pytest.mark.parametrize("name", ["slrum", "slurm2", "Slurm"])
def test_a_wrong_scheduler_is_named_with_its_near_miss_and_nothing_is_written(tmp_path, name):
    prediction = write_polarity(tmp_path, random_polarity(3, (8, 60, 60), 8, 0.05, "uint8"))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=f"workers.executor is '{name}'; did you mean 'slurm'"):
        synpol.decode_blockwise(
            prediction, tmp_path / "out", block_shape=(4, 20, 20), workers=Workers(executor=name)
        )
    assert sorted(tmp_path.iterdir()) == before


def test_a_command_refuses_a_wrong_scheduler_and_lists_those_there_are(tmp_path, capsys, noted):
    config = tiny_config(tmp_path, workers={"executor": "condor"})
    said = run_refused(capsys, "predict_blockwise", config)
    assert "workers.executor is 'condor'; there is: local, lsf, noted, pbs, slurm" in said
    assert sorted(tmp_path.iterdir()) == [config]
    assert "workers.executor  [local or lsf or pbs or slurm or noted] (local)" in keys_text()
