"""A real PostgreSQL server on loopback, for tests."""

from __future__ import annotations

import contextlib
import glob
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def postgres_server() -> Iterator[str]:
    """Run the server; yields ``HOST:PORT``.

    Raises
    ------
    FileNotFoundError
        It is not installed.
    """
    found = shutil.which("pg_ctl") or next(
        iter(glob.glob("/usr/lib/postgresql/*/bin/pg_ctl")), None
    )
    if found is None:
        raise FileNotFoundError("pg_ctl (Debian: postgresql; make system-deps)")
    programs = Path(os.path.realpath(found)).parent
    folder = Path(tempfile.mkdtemp(prefix="synpol-postgres-"))
    user: list[str] = []
    if os.getuid() == 0:  # it refuses to run as root
        shutil.chown(folder, pwd.getpwnam("postgres").pw_uid)
        user = ["runuser", "-u", "postgres", "--"]

    def run(program: str, *arguments: str) -> None:
        command = [*user, str(programs / program), *arguments]
        subprocess.run(command, check=True, capture_output=True, timeout=120, cwd="/")

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = f"-c listen_addresses=127.0.0.1 -c unix_socket_directories= -p {port}"
    data, log = str(folder / "data"), str(folder / "log")
    try:
        run("initdb", "-D", data, "-U", "tester", "--auth=trust", "--no-sync")
        run("pg_ctl", "-D", data, "-l", log, "-w", "-o", options, "start")
        try:
            yield f"127.0.0.1:{port}"
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder)
