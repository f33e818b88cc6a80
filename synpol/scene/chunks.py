"""Serve arrays whose chunks are computed when a browser asks for them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass

import neuroglancer.server
import numpy as np
import tornado.httpserver
import tornado.netutil
import tornado.web
from neuroglancer.static_file_server import CorsStaticFileHandler

from synpol.errors import InputError

_log = logging.getLogger(__name__)
#: where the chunks of an image's full resolution lie
_CHUNKS = "s0/c/"


class Files(CorsStaticFileHandler):
    """Serve files that a browser does not cache, because they may change."""

    def compute_etag(self) -> None:
        return None

    def set_extra_headers(self, path: str) -> None:
        self.set_header("Cache-Control", "no-store")

    def validate_absolute_path(self, root: str, absolute_path: str) -> str | None:
        try:
            return super().validate_absolute_path(root, absolute_path)
        except (OSError, ValueError):  # a name that no file can have
            raise tornado.web.HTTPError(404) from None


@dataclass(frozen=True)
class Chunk:
    """A chunk that may still be in the making.

    Attributes
    ----------
    voxels : Future of array
        Voxels; cancelled when the browser gives the chunk up.
    encode : callable
        Function that turns the voxels into the bytes of the chunk.
    """

    voxels: Future[np.ndarray]
    encode: Callable[[np.ndarray], bytes]


#: finds the chunk at an address such as ``0/1/2``; None: there is none
type ChunkOf = Callable[[str], Chunk | None]


class ComputedChunks(Files):
    """Serve the metadata of an array from its folder, and its chunks from a function."""

    def initialize(self, path: str, chunk_of: ChunkOf) -> None:
        super().initialize(path)
        self.chunk_of = chunk_of
        self.chunk: Chunk | None = None

    async def get(self, path: str, include_body: bool = True) -> None:
        if not path.startswith(_CHUNKS):
            await super().get(path, include_body)
            return
        self.chunk = self.chunk_of(path.removeprefix(_CHUNKS)) if include_body else None
        if self.chunk is None:
            raise tornado.web.HTTPError(404)
        try:
            voxels = await asyncio.wrap_future(self.chunk.voxels)
            loop = asyncio.get_running_loop()
            body = await loop.run_in_executor(None, self.chunk.encode, voxels)
        except asyncio.CancelledError:  # the browser is gone, or the scene ends
            raise tornado.web.HTTPError(503) from None
        except InputError as error:
            _log.warning("%s", error)
            raise tornado.web.HTTPError(500) from None
        self.set_header("Content-Type", "application/octet-stream")
        self.set_header("Cache-Control", "no-store")
        self.finish(body)

    def on_connection_close(self) -> None:
        if self.chunk is not None:
            self.chunk.voxels.cancel()


@contextlib.contextmanager
def second_port(host: str, port: int) -> Iterator[str]:
    """Serve neuroglancer's application at one more port; gives its address.

    A browser opens six connections to an address at most. Chunks that are long in the making have
    an address for themselves, so that they keep nothing else waiting.

    Raises
    ------
    InputError
        The port is in use.
    """
    server = neuroglancer.server.global_server
    try:
        sockets = tornado.netutil.bind_sockets(port, host)
    except OSError as error:
        raise InputError(
            f"the live layers cannot be served at {host}:{port} ({error.strerror}); another scene "
            "may be open there: end it, or set view.live_port"
        ) from None
    second = tornado.httpserver.HTTPServer(server.app)

    async def begin() -> None:
        second.add_sockets(sockets)

    async def end() -> None:
        second.stop()
        await second.close_all_connections()

    asyncio.run_coroutine_threadsafe(begin(), server.loop).result()
    try:
        yield f"http://{host}:{sockets[0].getsockname()[1]}"
    finally:
        if server.loop.is_running():
            asyncio.run_coroutine_threadsafe(end(), server.loop).result()
