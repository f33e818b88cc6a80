"""A real SLURM cluster on one machine: every node a network namespace with its own address.

Needs root and ``make system-deps`` (SLURM, munge, iproute2). Nodes share the file system, as those
of a cluster do. A node can be killed, brought back, and cut off from the network.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

CONFIG = """
ClusterName=synpol
SlurmctldHost=ctl({controller})
SlurmUser=root
AuthInfo=socket={folder}/munge.sock,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,bf_interval=1
ReturnToService=2
SlurmdTimeout=6
TCPTimeout=2
KillWait=2
NodeName=n[1-{nodes}] NodeAddr={network}.1[1-{nodes}] CPUs=2 RealMemory=8000
PartitionName=main Nodes=ALL Default=YES State=UP
"""


def missing() -> str | None:
    """Why there can be no cluster here, or None."""
    programs = ("slurmctld", "slurmd", "sbatch", "munged", "ip", "nsenter")
    absent = [
        p for p in programs if shutil.which(p, path=f"{os.environ['PATH']}:/usr/sbin") is None
    ]
    if absent:
        return f"{', '.join(absent)} not installed; run `make system-deps` (Debian, root)"
    if os.geteuid() != 0:
        return "a cluster of network namespaces needs root"
    return None


class SlurmCluster:
    """Brings a cluster up; `close` takes it down again.

    Parameters
    ----------
    folder : path
        For its state; short, since sockets lie in it.
    nodes : int
        Up to 9.
    """

    def __init__(self, folder: Path, nodes: int = 3) -> None:
        self.folder, self.nodes = folder, nodes
        self.tag = f"sp{os.getpid() % 10000}"
        self.network = "10.78.0"
        self.controller = f"{self.network}.1"
        self._slurmd: dict[int, subprocess.Popen] = {}
        self._daemons: list[subprocess.Popen] = []
        (folder / "state").mkdir(parents=True)
        (folder / "munge").mkdir(mode=0o700)
        (folder / "hosts").write_text(
            f"127.0.0.1 localhost\n{self.controller} ctl\n"
            + "".join(f"{self.network}.1{n} n{n}\n" for n in self._numbers())
        )
        (folder / "slurm.conf").write_text(
            CONFIG.format(
                folder=folder, controller=self.controller, network=self.network, nodes=nodes
            )
        )
        try:
            self._network_up()
            self._start_daemons()
            for number in self._numbers():
                self.start(number)
            self._wait_until_idle()
        except BaseException:
            self.close()
            raise

    def _numbers(self) -> range:
        return range(1, self.nodes + 1)

    def _network_up(self) -> None:
        control = f"{self.tag}c"
        self._ip("netns", "add", control)
        self._ip("-n", control, "link", "set", "lo", "up")
        self._ip("-n", control, "link", "add", "br0", "type", "bridge")
        self._ip("-n", control, "addr", "add", f"{self.controller}/24", "dev", "br0")
        self._ip("-n", control, "link", "set", "br0", "up")
        for number in self._numbers():
            space = f"{self.tag}n{number}"
            self._ip("netns", "add", space)
            self._ip("-n", space, "link", "set", "lo", "up")
            port = ["type", "veth", "peer", "name", "eth0", "netns", space]
            self._ip("-n", control, "link", "add", f"v{number}", *port)
            self._ip("-n", control, "link", "set", f"v{number}", "master", "br0", "up")
            self._ip("-n", space, "addr", "add", f"{self.network}.1{number}/24", "dev", "eth0")
            self._ip("-n", space, "link", "set", "eth0", "up")

    def _start_daemons(self) -> None:
        folder = self.folder
        key = folder / "munge" / "key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        munged = [
            *("/usr/sbin/munged", "-F", "-f", "-S", f"{folder}/munge.sock", f"--key-file={key}"),
            *(f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munge/log"),
            f"--seed-file={folder}/munge/seed",
        ]
        self._daemons.append(self._background(munged, "munged"))
        inside = self._inside("c", "ctl", ["/usr/sbin/slurmctld", "-D", "-c"])
        self._daemons.append(self._background(inside, "slurmctld"))

    def _wait_until_idle(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            found = self.run(["sinfo", "-hNt", "idle"], check=False)
            if len(found.stdout.splitlines()) == self.nodes:
                return
            time.sleep(0.2)
        log = (self.folder / "slurmctld.log").read_text()[-2000:]
        raise RuntimeError(f"the cluster did not come up: {log}")

    @property
    def environment(self) -> dict[str, str]:
        """For commands that talk to the cluster."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin"
        return {**os.environ, "SLURM_CONF": f"{self.folder}/slurm.conf", "PATH": path}

    def popen(self, command: Sequence[str], **options) -> subprocess.Popen:
        """Start a command on the login node, which is the controller's."""
        return subprocess.Popen(self._inside("c", "ctl", command), env=self.environment, **options)

    def run(
        self, command: Sequence[str], check: bool = True, timeout: float = 60
    ) -> subprocess.CompletedProcess:
        """Run a command on the login node."""
        return subprocess.run(
            self._inside("c", "ctl", command),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=check,
        )

    def jobs(self) -> dict[str, tuple[str, str]]:
        """State and node of every job that has not ended, by its id."""
        lines = self.run(["squeue", "-h", "-o", "%i %t %N"]).stdout.splitlines()
        rows = [[*line.split(), ""] for line in lines]
        return {row[0]: (row[1], row[2]) for row in rows}

    def start(self, number: int) -> None:
        """Bring a node up."""
        options = ["--pid", "--fork", "--mount-proc", "--kill-child=KILL"]
        command = ["/usr/sbin/slurmd", "-D", "-N", f"n{number}"]
        inside = self._inside(f"n{number}", f"n{number}", command, options)
        self._slurmd[number] = self._background(inside, f"slurmd-{number}")

    def kill(self, number: int) -> None:
        """Let a node die with everything on it."""
        process = self._slurmd.pop(number)
        process.kill()
        process.wait()

    def cut_off(self, number: int) -> None:
        """Take a node from the network; what runs on it goes on."""
        self._ip("-n", f"{self.tag}c", "link", "set", f"v{number}", "down")

    def reconnect(self, number: int) -> None:
        """Bring a node back to the network."""
        self._ip("-n", f"{self.tag}c", "link", "set", f"v{number}", "up")

    def close(self) -> None:
        """Take everything down."""
        for number in list(self._slurmd):
            self.kill(number)
        for daemon in reversed(self._daemons):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(timeout=10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for space in ["c", *(f"n{n}" for n in self._numbers())]:
            with contextlib.suppress(subprocess.CalledProcessError):
                self._ip("netns", "del", f"{self.tag}{space}")

    def _inside(
        self, space: str, host: str, command: Sequence[str], options: Sequence[str] = ()
    ) -> list[str]:
        """A command in a namespace with its own host name and table of hosts."""
        prepare = f'hostname {host}; mount --bind {self.folder}/hosts /etc/hosts; exec "$@"'
        enter = ["nsenter", f"--net=/run/netns/{self.tag}{space}"]
        apart = ["unshare", "--uts", "--mount", *options]
        return [*enter, *apart, "bash", "-c", prepare, "--", *command]

    def _background(self, command: Sequence[str], name: str) -> subprocess.Popen:
        with open(self.folder / f"{name}.out", "ab") as out:
            return subprocess.Popen(
                command,
                env={**os.environ, "SLURM_CONF": f"{self.folder}/slurm.conf"},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=20)
