"""Ctrl-C and SIGTERM that let an iteration end first."""

from __future__ import annotations

import signal
from types import TracebackType
from typing import Any, Self


class Interrupt:
    """Note Ctrl-C and a scheduler's SIGTERM, so that the iteration can end and be saved.

    A second signal acts as usual, which ends the process at once.

    Attributes
    ----------
    seen : bool
        Whether a signal has come.
    """

    def __init__(self) -> None:
        self.seen = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        def note(number: int, frame: object) -> None:
            self.seen = True
            signal.signal(number, self._before[number])

        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
