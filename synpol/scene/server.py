"""Serve a scene: neuroglancer, the files that it reads, and links from a report."""

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

#: cookie of a browser that has opened the scene; only such a browser may follow links into it
COOKIE = "synpol_scene"


@contextlib.contextmanager
def scene_server(
    folders: Mapping[str, Path],
    state_of: Callable[[Mapping[str, str]], neuroglancer.ViewerState],
    *,
    port: int,
    host: str = "127.0.0.1",
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
    """Serve files that a browser does not cache, because they may change."""

    def compute_etag(self) -> None:
        return None

    def set_extra_headers(self, path: str) -> None:
        self.set_header("Cache-Control", "no-store")


class _Open(tornado.web.RequestHandler):
    """Open the scene, and give the browser the cookie for links from a report."""

    def initialize(self, viewer: neuroglancer.Viewer) -> None:
        self.viewer = viewer

    def get(self) -> None:
        self.set_cookie(COOKIE, self.viewer.token, httponly=True, samesite="Lax")
        self.redirect(self.viewer.get_viewer_url())


class _GoTo(_Open):
    """Move the scene to the position of ``/at?z=..&y=..&x=..`` (nm)."""

    def get(self) -> None:
        if not secrets.compare_digest(self.get_cookie(COOKIE, ""), self.viewer.token):
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
        self.redirect(self.viewer.get_viewer_url())


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
