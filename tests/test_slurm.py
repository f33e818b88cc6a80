"""Runs on a real SLURM cluster of three nodes, disturbed in every way that clusters know."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import pytest
from recipes import ROOT, run, tiny_config, tiny_volume
from slurm_cluster import SlurmCluster, missing
from test_faults import JOB, digest, finish
from volumes import random_polarity, write_polarity

pytestmark = pytest.mark.slurm
WORKERS = {"executor": "slurm", "cpus": 1, "host": "10.78.0.1", "walltime": 5}


@pytest.fixture(scope="module")
def cluster():
    reason = missing()
    if reason:
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    running = SlurmCluster(folder)
    yield running
    running.close()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A prediction, and what an undisturbed run on this machine makes of it."""
    folder = tmp_path_factory.mktemp("cluster")
    volume = random_polarity(1, (24, 192, 192), 10, 0.05, "uint8")
    prediction = write_polarity(folder, volume, (8, 48, 48))
    finish(prediction, folder / "local")
    return folder, prediction, digest(folder / "local")


class Run:
    """A decoding that submits jobs to the cluster, from its login node."""

    def __init__(self, cluster, job, name, slow=0.5, **workers):
        self.cluster, self.name = cluster, name
        folder, prediction, self.expected = job
        self.output = folder / name
        options = {"slow": slow, "num_workers": 3, "workers": WORKERS | workers}
        self.command = [sys.executable, str(JOB), prediction, str(self.output)]
        self.command += [f"{key}={value!r}" for key, value in options.items()]
        self.start()

    def start(self):
        with open(self.output.with_suffix(".log"), "a") as log:
            self.process = self.cluster.popen(self.command, stdout=log, stderr=log)

    def text(self):
        return self.output.with_suffix(".log").read_text()[-3000:]

    def until(self, condition, seconds=60):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.2)

    def blocks_done(self):
        return len(list(Path(f"{self.output}.work").glob("decode-*/label/*/*/*.record")))

    def driver_pid(self):
        return json.loads((Path(f"{self.output}.work") / "driver.lock").read_text())["pid"]

    def running(self):
        return [id for id, (state, _) in self.cluster.jobs().items() if state == "R"]

    def until_busy(self):
        """All three workers run and some blocks are done."""
        self.until(lambda: len(self.running()) == 3 and self.blocks_done() > 5)

    def ends_well(self, seconds=240):
        assert self.process.wait(timeout=seconds) == 0, self.text()
        assert digest(self.output) == self.expected
        self.until(lambda: not self.cluster.jobs(), 30)


def test_the_commands_run_on_a_cluster_as_they_do_here(cluster, tmp_path):
    tiny_volume(tmp_path / "data", (8, 96, 96))
    config = tiny_config(
        tmp_path, predict__batch_size=2, workers={"num_predict_workers": 2, "cpus": 1}
    )
    assert run("train", config) == 0
    assert run("predict_blockwise", config) == 0
    command = [sys.executable, str(ROOT / "pipelines" / "predict_blockwise.py"), str(config)]
    command += [str(ROOT / "configs" / "slurm.yaml"), f"predict.output={tmp_path}/cluster"]
    command += ["workers.host=10.78.0.1", "workers.num_workers=2", "workers.cpus=1"]
    command += ["workers.num_predict_workers=2", "workers.queue=main", "workers.memory=2GB"]
    command += ["workers.gpus=0", "workers.setup=[export SYNPOL_TEST=1]", "workers.walltime=5"]
    done = cluster.run(command, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    for name in ("polarity", "instances"):
        chunks = Path(name) / "s0" / "c"
        assert digest(tmp_path / "cluster" / chunks) == digest(tmp_path / "result" / chunks)
    logs = tmp_path / "cluster.work" / "logs"
    assert len(list(logs.glob("synpol-*.err"))) == 2
    hosts = {path.name.rsplit("-", 1)[0] for path in (logs / "predict").glob("*.times")}
    assert hosts
    assert hosts <= {"n1", "n2", "n3"}


def test_a_cancelled_job_is_replaced(cluster, job):
    run = Run(cluster, job, "cancelled")
    run.until_busy()
    victim = run.running()[0]
    cluster.run(["scancel", victim])
    run.until(lambda: len(run.running()) == 3 and victim not in run.running(), 30)
    run.ends_well()


def test_however_the_driver_ends_its_jobs_end_too_and_a_rerun_completes(cluster, job):
    run = Run(cluster, job, "driver", num_workers=8)
    run.until_busy()
    os.kill(run.driver_pid(), signal.SIGKILL)
    run.process.wait()
    run.until(lambda: not cluster.jobs(), 60)
    run.start()
    run.ends_well()


@pytest.mark.slow
def test_an_interrupted_driver_leaves_no_job(cluster, job):
    run = Run(cluster, job, "interrupted")
    run.until_busy()
    os.kill(run.driver_pid(), signal.SIGINT)
    assert run.process.wait(timeout=60) != 0
    run.until(lambda: not cluster.jobs(), 30)
    run.start()
    run.ends_well()


@pytest.mark.slow
def test_a_node_dies(cluster, job):
    run = Run(cluster, job, "node")
    run.until_busy()
    cluster.kill(2)
    run.until(lambda: run.blocks_done() > 20, 120)
    cluster.start(2)
    run.ends_well()


@pytest.mark.slow
def test_a_node_is_cut_off_and_comes_back(cluster, job):
    run = Run(cluster, job, "cut", block_timeout=15)
    run.until_busy()
    cluster.cut_off(3)
    time.sleep(25)
    cluster.reconnect(3)
    run.ends_well()


@pytest.mark.slow
def test_the_walltime_is_shorter_than_the_run(cluster, job):
    run = Run(cluster, job, "walltime", slow=5, walltime=1)
    run.until_busy()
    first = set(run.running())
    run.until(lambda: first.isdisjoint(run.running()) and run.running(), 150)
    run.ends_well(400)


def test_a_queue_that_is_not_there_is_said_at_once(cluster, job):
    run = Run(cluster, job, "queue", queue="nowhere")
    assert run.process.wait(timeout=60) != 0
    assert "slurm refused the job of a worker" in run.text()
    assert "invalid partition specified: nowhere" in run.text()
