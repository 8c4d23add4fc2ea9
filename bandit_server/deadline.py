"""Blocks of code that must end in time, many at once and all within the same number of seconds, on one timer.

asyncio.timeout sets and cancels a timer for each, which takes a call longer than anything else that is the same for
every call.
"""

from __future__ import annotations

import asyncio
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
        # In the order in which they end.
        self._running: dict[_Block, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self) -> _Block:
        """A block."""
        return _Block(self)

    def begin(self, block: _Block) -> None:
        """Watch a block."""
        loop = asyncio.get_running_loop()
        self._running[block] = loop.time() + self.seconds
        if self._timer is None:
            self._timer = loop.call_later(self.seconds, self._look, loop)

    def end(self, block: _Block) -> None:
        """Watch it no more. Idempotent."""
        self._running.pop(block, None)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        for block, ends in list(self._running.items()):
            if ends > now:
                self._timer = loop.call_at(ends, self._look, loop)
                return
            del self._running[block]
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
        self._deadline.begin(self)

    def stop(self) -> None:
        """Its time is over."""
        self._late = True
        self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._deadline.end(self)
        # Whoever else has cancelled the task meant more than this block.
        if self._late and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise self._deadline.error() from error
