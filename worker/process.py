"""The process: its stop signals and its garbage collector."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any


class StopSignal:
    """A context in which SIGTERM and SIGINT are recorded instead of ending the process.

    Attributes:
        number: The first signal received; 0 for none.
    """

    def __init__(self) -> None:
        self.number = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._record)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _record(self, number: int, _: FrameType | None) -> None:
        # Ctrl-C in a terminal reaches every rank, and the launcher's SIGTERM follows it: the first signal counts.
        self.number = self.number or number


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Run the block without garbage collection, and exclude the objects that exist at its end from later collections.

    Objects that libraries create at import live as long as the process. Scanning them again and again during the
    imports, and once more at exit, took 3 of the 11 CPU seconds that a rank needs to load the built-in models and end.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
