"""A proxy in front of an S3 server that fails, waits, cuts answers short and repeats requests."""

from __future__ import annotations

import contextlib
import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

#: what happens to a request
FAULTS = (
    "refused",  # 500, and the server never sees it
    "busy",  # 503, and the server never sees it
    "lost",  # the connection ends, and the server never sees it
    "done, refused",  # the server does it, and the client is told 500
    "done, lost",  # the server does it, and the connection ends without an answer
    "cut",  # the connection ends in the middle of the answer
    "slow",  # the answer comes late
    "twice",  # the server gets it twice, one after the other
    "late",  # the server gets it again when later ones are done
)
#: those that a client notices
FAILURES = FAULTS[:6]
#: seconds
SLOW, LATE = 0.3, 0.4
#: headers that speak of one connection only
_HOP = ("connection", "transfer-encoding", "keep-alive")


class Faults:
    """Which fault each request meets.

    Attributes
    ----------
    met : Counter
        Number of requests by fault; "" of those that met none.
    """

    def __init__(self) -> None:
        self.met: Counter[str] = Counter()
        self._choose: Callable[[str], str] = lambda _: ""
        self._lock = threading.Lock()
        self.late: list[threading.Thread] = []

    def of(self, request: str) -> str:
        """The fault of the next request, "" for none."""
        with self._lock:
            fault = self._choose(request)
            self.met[fault] += 1
            return fault

    @contextlib.contextmanager
    def randomly(self, rng: random.Random, begin: int) -> Iterator[None]:
        """Let requests fail at random meanwhile: scattered ones, and mostly many in a row.

        Parameters
        ----------
        rng : random.Random
        begin : int
            Number of requests before those in a row.
        """
        share, kinds = rng.choice((0, 0.01, 0.05, 0.2)), rng.sample(FAULTS, rng.choice((1, 3, 9)))
        length = rng.choice((0, 1, 2, 10, 60, 10**9))
        number = 0

        def choose(_: str) -> str:
            nonlocal number
            number += 1
            if begin < number <= begin + length:
                return rng.choice(FAILURES)
            return rng.choice(kinds) if rng.random() < share else ""

        with self.chosen(choose):
            yield

    @contextlib.contextmanager
    def chosen(self, choose: Callable[[str], str]) -> Iterator[None]:
        """Let `choose` give the fault of each request ("PUT /bucket/name") meanwhile."""
        self._choose = choose
        try:
            yield
        finally:
            self._choose = lambda _: ""
            for thread in self.late:
                thread.join()
            self.late.clear()


class _Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    faults: Faults
    port: int

    def log_message(self, *_: object) -> None:
        pass

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.faults.of(f"{self.command} {self.path}")
        if fault in ("refused", "busy"):
            self._say_failure(500 if fault == "refused" else 503)
            return
        if fault == "lost":
            self._end()
            return
        if fault == "slow":
            time.sleep(SLOW)
        if fault == "twice":
            self._pass_on(body)
        status, headers, answer = self._pass_on(body)
        if fault == "late":
            thread = threading.Thread(target=self._again, args=(body,), daemon=True)
            self.faults.late.append(thread)
            thread.start()
        if fault == "done, refused":
            self._say_failure(500)
        elif fault == "done, lost":
            self._end()
        else:
            self._answer(status, headers, answer, cut=fault == "cut")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle

    def _again(self, body: bytes) -> None:
        time.sleep(LATE)
        with contextlib.suppress(OSError, http.client.HTTPException):
            self._pass_on(body)

    def _pass_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        server = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():  # the signature needs the same Host
                if name.lower() not in _HOP:
                    server.putheader(name, value)
            server.endheaders(body or None)
            answer = server.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            server.close()

    def _answer(
        self, status: int, headers: list[tuple[str, str]], body: bytes, *, cut: bool
    ) -> None:
        self.send_response_only(status)
        names = {name.lower() for name, _ in headers}
        for name, value in headers:
            if name.lower() not in _HOP:
                self.send_header(name, value)
        if "content-length" not in names and status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            body = b""
        if cut:
            self.wfile.write(body[: len(body) // 2])
            self._end()
        else:
            self.wfile.write(body)

    def _say_failure(self, status: int) -> None:
        code = "InternalError" if status == 500 else "SlowDown"
        body = f"<Error><Code>{code}</Code><Message>We encountered an error.</Message></Error>"
        self._answer(status, [("Content-Type", "application/xml")], body.encode(), cut=False)

    def _end(self) -> None:
        self.close_connection = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that have gone."""


@contextlib.contextmanager
def s3_proxy(url: str) -> Iterator[tuple[str, Faults]]:
    """Run a proxy in front of the server at a URL; yields its URL and the faults that it makes."""

    class Proxy(_Proxy):
        faults = Faults()
        port = urlsplit(url).port or 80

    with _Server(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", Proxy.faults
        server.shutdown()
