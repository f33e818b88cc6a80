"""Serve a scene: neuroglancer, the files that it reads, and links from a report."""

from __future__ import annotations

import contextlib
import html
import logging
import math
import os
import secrets
import tempfile
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import neuroglancer
import neuroglancer.server
import tornado.web

from synpol.errors import InputError
from synpol.scene.chunks import ChunkOf, ComputedChunks, Files, second_port

#: cookie of a browser that has opened the scene; only such a browser may follow links into it
COOKIE = "synpol_scene"
#: bytes of a request by somebody who does not know the secret of the scene
BODY = 2**16
#: page that leads a browser to the scene, and keeps the way there for links from a report. A cookie
#: goes to every port of this machine, so to servers of other users too; what a page keeps does not.
_OPENING = """<!doctype html><title>neuroglancer scene</title><script>
const way = "{way}";
localStorage.setItem("synpol_scene", way);
location.replace(way);
</script><noscript><a href="{way}">Open the scene</a></noscript>
"""
_FOLLOWING = """<!doctype html><title>neuroglancer scene</title><script>
const way = localStorage.getItem("synpol_scene");
if (way) location.replace(way);
else document.write("Open the scene in this browser first.");
</script>
"""


@contextlib.contextmanager
def scene_server(
    folders: Mapping[str, Path],
    state_of: Callable[[Mapping[str, str]], neuroglancer.ViewerState],
    *,
    port: int,
    host: str = "127.0.0.1",
    pages: Callable[[str, neuroglancer.Viewer], list[Any]] | None = None,
    key: str = "view.port",
    chunks: Mapping[str, ChunkOf] | None = None,
    chunk_port: int = 0,
) -> Iterator[tuple[neuroglancer.Viewer, str]]:
    """Serve a scene until the ``with`` block ends.

    Each address holds a new random secret, so other users of this machine cannot open the scene.
    The links in a report (`synpol.scene.links`) hold no secret. They work only in a browser that
    has opened the scene before.

    Parameters
    ----------
    folders : mapping
        Folders to serve, by name.
    state_of : callable
        Function that makes the state of the scene from the addresses of the folders, by name.
    port : int
        Port to listen on; 0 for any free port.
    host : str
        Address to listen on.
    pages : callable, optional
        Function that makes more handlers of tornado, from the secret, which has to be a part of
        their addresses, and the viewer.
    key : str
        Key of the config that says the port, for the message.
    chunks : mapping, optional
        Functions that find the chunks of the folders that hold metadata alone, by name.
    chunk_port : int
        Port to serve these folders at; 0 for any free port.

    Yields
    ------
    neuroglancer.Viewer
        Viewer with the state of the scene.
    str
        Address that opens the scene.

    Raises
    ------
    InputError
        The port is in use.
    """
    token = secrets.token_hex(16)
    neuroglancer.set_server_bind_address(host, port)
    try:
        neuroglancer.server.start()
    except OSError as error:
        raise InputError(
            f"the scene cannot be served at {host}:{port} ({error.strerror}); another one may be "
            f"open there: end it, or set {key}"
        ) from None
    try:
        viewer = neuroglancer.Viewer(token=token)
        handlers: list[Any] = []
        computed = chunks or {}
        for name, folder in folders.items():
            served: dict[str, Any] = {"path": str(folder.resolve())}
            if name in computed:
                served["chunk_of"] = computed[name]
            handler = ComputedChunks if name in computed else Files
            handlers.append((rf"/data/{token}/{name}/(.*)", handler, served))
        way = urllib.parse.urlsplit(viewer.get_viewer_url()).path
        page = {"viewer": viewer, "cookie": secrets.token_hex(16), "way": way}
        handlers.append((rf"/open/{token}", _Open, page))
        handlers.append((r"/at", _GoTo, page))
        handlers += [] if pages is None else pages(token, viewer)
        app = neuroglancer.server.global_server.app
        app.add_handlers(".*", handlers)
        address = neuroglancer.server.get_server_url()
        with contextlib.ExitStack() as open_ports:
            slow = ""
            if computed:
                slow = open_ports.enter_context(second_port(host, chunk_port))
            at = {name: slow if name in computed else address for name in folders}
            viewer.set_state(state_of({n: f"{at[n]}/data/{token}/{n}/" for n in folders}))
            with _guarded(app, token):
                yield viewer, f"{address}/open/{token}"
    finally:
        neuroglancer.server.stop()


@contextlib.contextmanager
def _guarded(app: tornado.web.Application, token: str) -> Iterator[None]:
    """Hold no large requests of strangers, and keep the secret out of logs."""
    find_handler = app.find_handler

    def find(request: Any, **more: Any) -> Any:
        if not any(part.startswith(token) for part in request.path.split("/")):
            request.connection.set_max_body_size(BODY)
        return find_handler(request, **more)

    def without_secret(record: logging.LogRecord) -> bool:
        record.msg, record.args = record.getMessage().replace(token, "..."), ()
        return True

    app.find_handler = find  # type: ignore[method-assign]
    loggers = [
        logging.getLogger(f"tornado.{name}") for name in ("access", "application", "general")
    ]
    for logger in loggers:
        logger.addFilter(without_secret)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(without_secret)


@contextlib.contextmanager
def private_page(address: str) -> Iterator[Path]:
    """Write a page that leads to an address, and that only this user can read.

    Other users of this machine see the arguments of a browser, which name this file instead of the
    address.

    Yields
    ------
    Path
        The page; it is removed at the end.
    """
    with tempfile.TemporaryDirectory(prefix="synpol-scene-") as folder:  # mode 0700
        page = Path(folder) / "scene.html"
        with open(os.open(page, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(
                '<!doctype html><meta charset="utf-8"><title>scene</title>'
                f'<meta http-equiv="refresh" content="0; url={html.escape(address)}">\n'
            )
        yield page


class _Open(tornado.web.RequestHandler):
    """Open the scene, and give the browser the cookie for links from a report."""

    def initialize(self, viewer: neuroglancer.Viewer, cookie: str, way: str) -> None:
        self.viewer, self.cookie, self.way = viewer, cookie, way

    def set_default_headers(self) -> None:
        self.set_header("Cache-Control", "no-store")
        self.set_header("Referrer-Policy", "no-referrer")

    def get(self) -> None:
        self.set_cookie(COOKIE, self.cookie, httponly=True, samesite="Lax", path="/at")
        self.finish(_OPENING.format(way=self.way))


class _GoTo(_Open):
    """Move the scene to the position of ``/at?z=..&y=..&x=..`` (nm)."""

    def get(self) -> None:
        given = self.get_cookie(COOKIE, "") or ""
        if not secrets.compare_digest(given.encode(errors="replace"), self.cookie.encode()):
            raise tornado.web.HTTPError(403, "open the scene in this browser first")
        try:
            position = [float(self.get_query_argument(axis)) for axis in "xyz"]
        except ValueError:
            position = [math.nan]
        if not all(map(math.isfinite, position)):
            raise tornado.web.HTTPError(400, "numbers x, y, z (nm) are expected")
        with self.viewer.txn() as state:
            nm = [1e9 * scale for scale in state.dimensions.scales]
            state.position = [p / n for p, n in zip(position, nm, strict=True)]
        self.finish(_FOLLOWING)


def screenshot(
    viewer: neuroglancer.Viewer, size: tuple[int, int] = (1200, 900), seconds: float = 300
) -> bytes:
    """Take a picture of the scene in the browser that shows it, when all chunks are loaded.

    Parameters
    ----------
    viewer : neuroglancer.Viewer
        Viewer of `scene_server`.
    size : (int, int)
        Width and height, pixels.
    seconds : float
        Longest time to wait.

    Returns
    -------
    bytes
        PNG file.

    Raises
    ------
    RuntimeError
        The picture was not ready in time.
    """
    images: list[bytes] = []
    ready = threading.Event()

    def take() -> None:
        images.append(viewer.screenshot(size=list(size)).screenshot.image)
        ready.set()

    threading.Thread(target=take, daemon=True).start()
    if not ready.wait(seconds):
        raise RuntimeError(f"the browser has not drawn the scene within {seconds:g} s")
    return images[0]
