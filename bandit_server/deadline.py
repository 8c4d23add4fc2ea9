"""Blocks of code that must end in time, many at once and all within the same number of seconds, on one timer.

asyncio.timeout sets and cancels a timer for each, which takes a call longer than anything else that is the same for
every call.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any


class Deadline:
    """`with deadline():` ends a block that takes longer, as asyncio.timeout does, with an error. For one event loop.

    Args:
        seconds: How long a block may take.
        error: Makes the error.
    """

    def __init__(self, seconds: float, error: Callable[[], Exception]) -> None:
        self.seconds = seconds
        self.error = error
        # When each block that is under way must end, the first one first.
        self.running: dict[_Block, float] = {}
        self.timer: asyncio.TimerHandle | None = None

    def __call__(self) -> _Block:
        """A block."""
        return _Block(self)

    def set(self) -> None:
        """Set the timer."""
        loop = asyncio.get_running_loop()
        self.timer = loop.call_later(self.seconds, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self.timer = None
        now = time.monotonic()
        for block, ends in list(self.running.items()):
            if ends > now:
                self.timer = loop.call_later(ends - now, self._look, loop)
                return
            del self.running[block]
            block.stop()


class _Block:
    __slots__ = ("_cancelling", "_deadline", "_late", "_task")

    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline
        self._late = False

    def __enter__(self) -> None:
        task: asyncio.Task[Any] | None = asyncio.current_task()
        assert task is not None, "a deadline is for code in a task"
        self._task = task
        self._cancelling = task.cancelling()
        deadline = self._deadline
        deadline.running[self] = time.monotonic() + deadline.seconds
        if deadline.timer is None:
            deadline.set()

    def stop(self) -> None:
        """Its time is over."""
        self._late = True
        self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._deadline.running.pop(self, None)
        # Whoever else has cancelled the task meant more than this block.
        if self._late and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise self._deadline.error() from error
