"""The scene's secret: who can see it, and what strangers can do to the server without it."""

from __future__ import annotations

import http.client
import logging
import os
import random
import re
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path

import neuroglancer
import pytest
from finished import finish
from recipes import ROOT

from synpol.scene.server import BODY, COOKIE, private_page, scene_server


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A served folder; gives (port, token, folder)."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "a.txt").write_text("content")
    state = neuroglancer.ViewerState(
        dimensions=neuroglancer.CoordinateSpace(names="xyz", units="nm", scales=[1, 1, 1])
    )
    with scene_server({"image": folder}, lambda addresses: state, port=0) as (viewer, address):
        yield urllib.parse.urlsplit(address).port, viewer.token, folder


def ask(port, path, method="GET", body=None, headers=()):
    """Send a request; returns status, headers and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.putrequest(method, path, skip_accept_encoding=True)
    for name, value in headers:
        connection.putheader(name, value)
    if body is not None:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders()
    try:
        if body is not None:
            connection.send(body)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def test_the_cookie_is_not_the_secret_and_does_not_lead_to_it(scene):
    port, token, _ = scene
    status, headers, page = ask(port, f"/open/{token}")
    assert status == 200 and token in page.decode()
    cookie = headers["Set-Cookie"]
    assert token not in cookie
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie and "Path=/at" in cookie
    value = re.match(rf"{COOKIE}=(\w+)", cookie)[1]
    link = "/at?z=1&y=2&x=3"
    status, headers, page = ask(port, link, headers=[("Cookie", f"{COOKIE}={value}")])
    assert status == 200
    assert token not in page.decode() and token not in str(headers)
    for path in (f"/open/{value}", f"/v/{value}/", f"/data/{value}/image/a.txt"):
        assert ask(port, path)[0] == 404
    for other in (token, "", "é", "\u2028", value[:-1], value + "0"):
        given = f"{COOKIE}={other}".encode()
        assert ask(port, link, headers=[("Cookie", given)])[0] == 403


@pytest.mark.parametrize(
    "path",
    [
        "/data/TOKEN/image/%00",
        "/data/TOKEN/image/a%00.txt",
        "/data/TOKEN/image/%ff%fe",
        "/data/TOKEN/image/" + "a" * 300,
        "/data/TOKEN/image/" + "a/" * 3000,
        "/data/TOKEN/image/..%2f..%2fetc/passwd",
        "/data/TOKEN/image/../../../etc/passwd",
        "/data/TOKEN/image//etc/passwd",
        "/data/TOKEN/",
        "/data/%00/image/a.txt",
        "/v/TOKEN/%00",
        "/v/%00/",
        "/open/%00",
        "/at?x=%00&y=1&z=1",
        "/at?x=1",
        "/%00",
        "/%ff",
        "//",
        "/neuroglancer/info/%00",
        "/skeleton/x",
    ],
)
def test_odd_addresses_are_refused_and_never_a_fault(scene, path):
    port, token, _ = scene
    status, _, body = ask(port, path.replace("TOKEN", token))
    assert 400 <= status < 500, (path, status)
    assert b"root:" not in body


def test_bodies_without_the_secret_are_small(scene):
    port, token, _ = scene
    for path in ("/open/guessed", "/action/guessed", "/state/guessed", "/at", "/", f"/x{token}"):
        assert ask(port, path, "POST", b"x" * BODY)[0] in (403, 404, 405), path
        try:  # the server refuses it by its head, and may close before all of it is sent
            status = ask(port, path, "POST", b"x" * (BODY + 1))[0]
        except OSError:
            status = 400
        assert status in (400, 413), path
    # a picture of the browser that shows the scene is larger
    assert ask(port, f"/state/{token}", "POST", b"x" * 10 * BODY)[0] not in (400, 413)


def test_a_large_body_without_the_secret_is_not_held_in_memory(scene):
    port, _, _ = scene

    def resident():
        return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1])

    before = resident()
    held = []
    for _ in range(20):
        stranger = socket.create_connection(("127.0.0.1", port))
        held.append(stranger)
        head = (
            b"POST /action/guessed HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99000000\r\n\r\n"
        )
        stranger.sendall(head)
        try:
            for _ in range(50):
                stranger.sendall(b"x" * 100_000)
        except OSError:
            pass
    assert resident() - before < 40_000  # kB; it was sent 100 MB
    for stranger in held:
        stranger.close()


def test_addresses_stay_out_of_the_log(scene, caplog):
    port, token, _ = scene
    with caplog.at_level(logging.DEBUG):
        for path in ("image/../../x", "image/none", "image/%00", "image/%ff", "none/x"):
            ask(port, f"/data/{token}/{path}")
        ask(port, f"/open/{token}?x=%ff")
        ask(port, f"/state/{token}", "POST", b"no json")  # a fault in neuroglancer's own handler
    assert any("POST /state/" in record.getMessage() for record in caplog.records)
    assert token not in caplog.text


def test_a_page_that_leads_to_the_scene_is_for_this_user_alone():
    address = "http://127.0.0.1:1/open/secret?a=1&b=2"
    with private_page(address) as page:
        assert stat.S_IMODE(page.stat().st_mode) == 0o600
        assert stat.S_IMODE(page.parent.stat().st_mode) == 0o700
        assert "a=1&amp;b=2" in page.read_text()
    assert not page.parent.exists()


def test_the_secret_stands_in_no_process_list(tmp_path):
    config = finish(tmp_path / "made")
    arguments = tmp_path / "arguments"
    program = tmp_path / "browser"
    program.write_text(
        f'#!/bin/sh\nprintf "%s" "$*" > {arguments}.part\nmv {arguments}.part {arguments}\n'
    )
    program.chmod(0o755)
    command = [sys.executable, str(ROOT / "pipelines" / "view.py"), str(config)]
    environment = os.environ | {"BROWSER": f"{program} %s"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        line = next(text for text in process.stdout if text.startswith("http://127.0.0.1:"))
        token = line.strip().rpartition("/")[2]
        deadline = time.monotonic() + 30
        while not arguments.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        shown = arguments.read_text()
        assert token not in shown and shown.startswith("file://")
        page = Path(urllib.parse.urlsplit(shown).path)
        assert token in page.read_text() and stat.S_IMODE(page.stat().st_mode) == 0o600
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                assert token.encode() not in entry.read_bytes()
            except OSError:
                continue
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0 and token not in errors
        assert not page.exists()
    finally:
        process.kill()
        process.wait()


def request_of(rng, token):
    """Make a request at random, of pieces of real ones and of bytes."""
    method = rng.choice(
        ["GET", "GET", "GET", "POST", "POST", "PUT", "OPTIONS", "HEAD", "DELETE", "\x00", "GET\t"]
    )
    pieces = ["data", token, "image", "a.txt", "..", "%2e%2e", "%00", "%ff", "", "at", "open", "v"]
    pieces += ["state", "action", "events", "credentials", "volume_response", "neuroglancer"]
    path = "/" + "/".join(rng.choice(pieces) for _ in range(rng.randrange(1, 6)))
    path += rng.choice(["", "?x=1&y=2&z=3", "?x=nan&y=1e999&z=", "?%00", "#", "?c=1&gc=2"])
    headers = [
        f"Cookie: {COOKIE}={rng.choice([token, 'é', '', chr(0), ';' * 50])}",
        f"Content-Length: {rng.choice(['0', '-1', 'x', '5', '99999999999999999999'])}",
        "Transfer-Encoding: " + rng.choice(["chunked", "gzip", "identity"]),
        f"Range: bytes={rng.choice(['0-', '-1', '9-1', 'x', '0-99999999999999999999'])}",
        "X: " + "y" * rng.randrange(1, 3000),
        f"Content-Type: {rng.choice(['multipart/form-data; boundary=', 'application/json', ''])}",
    ]
    lines = [f"{method} {path} HTTP/{rng.choice(['1.1'] * 9 + ['1.0', '9', ''])}"]
    lines += [f"Host: {rng.choice(['127.0.0.1'] * 9 + ['x' * 200, ''])}"]  # or nothing else is read
    lines += rng.sample(headers, rng.choice([0, 1, 1, 2, 3]))
    content = "\r\n".join(lines).encode(errors="replace") + b"\r\n\r\n"
    content += rng.choice([b"", b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"{}"])
    if rng.random() < 0.3:
        content = bytearray(content)
        for _ in range(3):
            content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content)


def try_requests(scene, seeds):
    """Send random requests; the server answers well afterwards, and gives nothing away."""
    port, token, _ = scene
    for seed in seeds:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as stranger:
            stranger.sendall(request_of(random.Random(seed), token))
            stranger.settimeout(0.02)
            try:
                answer = stranger.recv(4096)
            except (TimeoutError, ConnectionError):
                continue
            assert b"root:" not in answer
            status = answer.split(b" ", 2)[1:2]
            known = b"/state" in request_of(random.Random(seed), token)
            assert known or status != [b"500"], (seed, answer)
    assert ask(port, f"/data/{token}/image/a.txt")[2] == b"content"
    return len(seeds)


def test_random_requests_leave_the_server_as_it_was(scene):
    assert try_requests(scene, range(300)) == 300


@pytest.mark.slow
def test_random_requests_leave_the_server_as_it_was_many_times(scene):
    assert try_requests(scene, range(1000, 6000)) == 5000
