"""Shows a scene: one server for neuroglancer, the files, and links from a report."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import neuroglancer
import neuroglancer.server
import tornado.web
from neuroglancer.static_file_server import CorsStaticFileHandler

from synpol.errors import InputError


@contextlib.contextmanager
def scene_server(
    folders: Mapping[str, Path],
    state_of: Callable[[Mapping[str, str]], neuroglancer.ViewerState],
    *,
    port: int,
    token: str,
    host: str = "127.0.0.1",
) -> Iterator[neuroglancer.Viewer]:
    """Serve a scene until the block ends.

    Parameters
    ----------
    folders : mapping
        Folders to serve, by name.
    state_of : callable
        Makes the scene of the addresses of the folders.
    port : int
        0: any that is free.
    token : str
        Part of every address; see `synpol.viewer.links.scene_token`.
    host : str
        Address to listen on.

    Yields
    ------
    neuroglancer.Viewer
        Its `get_viewer_url` is where the scene is.

    Raises
    ------
    InputError
        The port is taken.
    """
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
        handlers.append((rf"/at/{token}", _GoTo, {"viewer": viewer}))
        neuroglancer.server.global_server.app.add_handlers(".*", handlers)
        address = f"{neuroglancer.server.get_server_url()}/data/{token}"
        viewer.set_state(state_of({name: f"{address}/{name}/" for name in folders}))
        yield viewer
    finally:
        neuroglancer.server.stop()


class _Files(CorsStaticFileHandler):
    """Files as they are now; no digest of a whole shard before a part of it is sent."""

    def compute_etag(self) -> None:
        return None


class _GoTo(tornado.web.RequestHandler):
    """``/at/TOKEN?z=..&y=..&x=..`` (nm): the scene at that place."""

    def initialize(self, viewer: neuroglancer.Viewer) -> None:
        self.viewer = viewer

    def get(self) -> None:
        try:
            place = [float(self.get_query_argument(axis)) for axis in "xyz"]
        except ValueError:
            raise tornado.web.HTTPError(400, "numbers x, y, z (nm) are expected") from None
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
