"""Compute what was asked for last first, in one thread, and keep the last results."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future

import numpy as np


class NewestFirst[Key: Hashable]:
    """Answer requests for arrays by computing one after the other, the newest request first.

    A request whose future was cancelled is not computed. An array that was computed is kept until
    newer ones need its room.

    Parameters
    ----------
    compute : callable
        Function that makes the array of a key; is called by one thread alone.
    most_bytes : int
        Largest number of bytes of arrays that are kept.
    """

    def __init__(self, compute: Callable[[Key], np.ndarray], most_bytes: int) -> None:
        self._compute, self._most_bytes = compute, most_bytes
        self._kept: OrderedDict[Key, np.ndarray] = OrderedDict()
        self._bytes = 0
        self._waiting: dict[Future[np.ndarray], Key] = {}  # newest last
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._work, name="live", daemon=True)
        self._thread.start()

    def ask(self, key: Key) -> Future[np.ndarray]:
        """Return the future array of a key; cancel the future to give up the request."""
        future: Future[np.ndarray] = Future()
        with self._changed:
            known = self._known(key)
            if known is not None:
                future.set_result(known)
            elif self._ended:
                future.cancel()
            else:
                self._waiting[future] = key
                self._changed.notify()
        future.add_done_callback(self._forget)
        return future

    @property
    def waiting(self) -> int:
        """Number of requests that are neither begun nor given up."""
        return len(self._waiting)

    @property
    def kept_bytes(self) -> int:
        """Number of bytes of the arrays that are kept."""
        return self._bytes

    def close(self) -> None:
        """End the thread after the array that it computes; requests that wait are cancelled."""
        with self._changed:
            self._ended = True
            waiting = list(self._waiting)
            self._changed.notify()
        for future in waiting:
            future.cancel()
        self._thread.join()

    def _known(self, key: Key) -> np.ndarray | None:
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def _forget(self, future: Future[np.ndarray]) -> None:
        with self._changed:
            self._waiting.pop(future, None)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                if self._ended:
                    return
                future, key = self._waiting.popitem()
                known = self._known(key)
            if not future.set_running_or_notify_cancel():
                continue
            try:
                array = self._compute(key) if known is None else known
            except Exception as error:
                future.set_exception(error)
                continue
            if known is None:
                self._keep(key, array)
            future.set_result(array)

    def _keep(self, key: Key, array: np.ndarray) -> None:
        with self._changed:
            self._kept[key] = array
            self._bytes += array.nbytes
            while self._bytes > self._most_bytes:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes
