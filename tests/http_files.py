"""A server of the files of a folder on loopback, for tests."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar


class _Files(http.server.SimpleHTTPRequestHandler):
    """Serve files with an ETag of their content; what lies in `secret` may not be read."""

    asked: ClassVar[list[str]]

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(super().do_GET)

    def do_HEAD(self) -> None:
        self._answer(super().do_HEAD)

    def _answer(self, answer: object) -> None:
        type(self).asked.append(f"{self.command} {self.path}")
        if "/secret" in self.path:
            self.send_error(403)
        elif "/login" in self.path:
            self.send_error(401)
        else:
            answer()  # type: ignore[operator]

    def end_headers(self) -> None:
        file = Path(self.translate_path(self.path))
        if file.is_file():
            self.send_header("ETag", f'"{hashlib.md5(file.read_bytes()).hexdigest()}"')
        super().end_headers()


@contextlib.contextmanager
def http_files(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Run the server; gives its URL, and the requests that it gets."""

    class Files(_Files):
        asked: ClassVar[list[str]] = []

    handler = functools.partial(Files, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", Files.asked
        server.shutdown()
