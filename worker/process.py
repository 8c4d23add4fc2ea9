"""The process itself: signals that ask it to stop, and what its garbage collector looks at."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any


class StopSignal:
    """While the block lasts, SIGTERM and SIGINT are remembered instead of ending the process.

    Attributes:
        number: The signal that has come; 0 for none.
    """

    def __init__(self) -> None:
        self.number = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _remember(self, number: int, _: FrameType | None) -> None:
        # A terminal's Ctrl-C reaches every rank, and the launcher's SIGTERM follows it: the first one counts.
        self.number = self.number or number


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Nothing is looked through for garbage within, and what is there at the end never is again.

    What libraries make lives as long as the process. Looking through it again and again as they were imported, and once
    more at the exit, took 3 of the 11 CPU seconds in which a rank loads the built-in models and ends.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
