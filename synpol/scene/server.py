"""Shows a scene: one server for neuroglancer, the files, and links from a report."""

from __future__ import annotations

import contextlib
import math
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import neuroglancer
import neuroglancer.server
import tornado.web
from neuroglancer.static_file_server import CorsStaticFileHandler

from synpol.errors import InputError

#: of the browser that has opened the scene: it may be sent to places in it
COOKIE = "synpol_scene"


@contextlib.contextmanager
def scene_server(
    folders: Mapping[str, Path],
    state_of: Callable[[Mapping[str, str]], neuroglancer.ViewerState],
    *,
    port: int,
    host: str = "127.0.0.1",
) -> Iterator[tuple[neuroglancer.Viewer, str]]:
    """Serve a scene until the block ends.

    A secret that is new each time is part of every address, so that others who are logged in to
    this machine cannot read along. A report's links (`synpol.scene.links`) have no secret: they
    lead those browsers to the scene that have opened it before.

    Parameters
    ----------
    folders : mapping
        Folders to serve, by name.
    state_of : callable
        Makes the scene of the addresses of the folders.
    port : int
        0: any that is free.
    host : str
        Address to listen on.

    Yields
    ------
    neuroglancer.Viewer
    str
        Address at which the scene is opened.

    Raises
    ------
    InputError
        The port is taken.
    """
    token = secrets.token_hex(16)
    neuroglancer.set_server_bind_address(host, port)
    try:
        neuroglancer.server.start()
    except OSError as error:
        raise InputError(
            f"the scene cannot be served at {host}:{port} ({error.strerror}); another one may be "
            "open there: end it, or set view.port"
        ) from None
    try:
        viewer = neuroglancer.Viewer(token=token)
        handlers: list[Any] = [
            (rf"/data/{token}/{name}/(.*)", _Files, {"path": str(folder.resolve())})
            for name, folder in folders.items()
        ]
        handlers.append((rf"/open/{token}", _Open, {"viewer": viewer}))
        handlers.append((r"/at", _GoTo, {"viewer": viewer}))
        neuroglancer.server.global_server.app.add_handlers(".*", handlers)
        address = neuroglancer.server.get_server_url()
        viewer.set_state(state_of({name: f"{address}/data/{token}/{name}/" for name in folders}))
        yield viewer, f"{address}/open/{token}"
    finally:
        neuroglancer.server.stop()


class _Files(CorsStaticFileHandler):
    """Files as they are now, which a browser does not keep: they may be written anew."""

    def compute_etag(self) -> None:
        return None

    def set_extra_headers(self, path: str) -> None:
        self.set_header("Cache-Control", "no-store")


class _Open(tornado.web.RequestHandler):
    """The scene; lets the browser in that asks for it."""

    def initialize(self, viewer: neuroglancer.Viewer) -> None:
        self.viewer = viewer

    def get(self) -> None:
        self.set_cookie(COOKIE, self.viewer.token, httponly=True, samesite="Lax")
        self.redirect(self.viewer.get_viewer_url())


class _GoTo(_Open):
    """``/at?z=..&y=..&x=..`` (nm): the scene at that place."""

    def get(self) -> None:
        if not secrets.compare_digest(self.get_cookie(COOKIE, ""), self.viewer.token):
            raise tornado.web.HTTPError(403, "open the scene in this browser first")
        try:
            place = [float(self.get_query_argument(axis)) for axis in "xyz"]
        except ValueError:
            place = [math.nan]
        if not all(map(math.isfinite, place)):
            raise tornado.web.HTTPError(400, "numbers x, y, z (nm) are expected")
        with self.viewer.txn() as state:
            nm = [1e9 * scale for scale in state.dimensions.scales]
            state.position = [p / n for p, n in zip(place, nm, strict=True)]
        self.redirect(self.viewer.get_viewer_url())


def screenshot(
    viewer: neuroglancer.Viewer, size: tuple[int, int] = (1200, 900), seconds: float = 300
) -> bytes:
    """A PNG of the scene as the browser that shows it has drawn it, every chunk loaded.

    Raises
    ------
    RuntimeError
        It was not ready in time.
    """
    found: list[bytes] = []
    ready = threading.Event()

    def take() -> None:
        found.append(viewer.screenshot(size=list(size)).screenshot.image)
        ready.set()

    threading.Thread(target=take, daemon=True).start()
    if not ready.wait(seconds):
        raise RuntimeError(f"the browser has not drawn the scene within {seconds:g} s")
    return found[0]
