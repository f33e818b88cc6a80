"""Cut tiles ahead in the background, and keep the last ones."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor

from synpol.review.tiles import Tile

#: tiles that are kept, about a megabyte each
KEPT = 64
#: threads that cut; reading and encoding leave Python's lock
THREADS = 2


class Cutter[Key: Hashable]:
    """Cut each tile once, in the order in which they are asked for.

    Parameters
    ----------
    cut : callable
        Function that makes the tile of a key.
    """

    def __init__(self, cut: Callable[[Key], Tile]) -> None:
        self._cut = cut
        self._threads = ThreadPoolExecutor(THREADS, "tiles")
        self._tiles: OrderedDict[Key, Future[Tile]] = OrderedDict()
        self._lock = threading.Lock()

    def tile(self, key: Key) -> Future[Tile]:
        """Return the tile of a key, which may still be in the making."""
        with self._lock:
            tile = self._tiles.pop(key, None)
            if tile is None or (tile.done() and (tile.cancelled() or tile.exception())):
                tile = self._threads.submit(self._cut, key)
            self._tiles[key] = tile
            while len(self._tiles) > KEPT:
                self._tiles.popitem(last=False)[1].cancel()
            return tile

    def close(self) -> None:
        """End the threads; what is not begun is not cut."""
        self._threads.shutdown(wait=True, cancel_futures=True)
