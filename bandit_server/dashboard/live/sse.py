"""Feeds: one subscription to the bandit server each, sent to any number of browsers as server-sent events.

A browser has a cursor, not a queue. When it is ready for more, it is sent everything that is new since its last
message, so that slow browsers cost nothing and never delay fast ones. Browsers with the same cursor share one
rendering.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import grpc
import grpc.aio

from bandit_server.dashboard.view.run_view import Selection

LOG = logging.getLogger(__name__)

# Seconds between two messages to one browser; what changes in between is sent together.
MESSAGE_INTERVAL = 0.12
# A comment is sent after this many seconds of silence, so that proxies keep the connection and dead browsers show.
KEEPALIVE = 15.0
# Seconds that a feed goes on without viewers, so that a reloaded page finds its data.
LINGER = 30.0
MIN_RETRY, MAX_RETRY = 0.2, 2.0
# Status codes of calls to a server that is down or frozen.
UNREACHABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)

# Points per line and columns of pulls that a browser is sent at most: about what a wide screen can show.
LIMIT = 2000

# (epoch, version, batch): how much a browser has been sent.
Cursor = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Status:
    """The state of the connection to the bandit server.

    Attributes:
        state: "reading" while a long history is being read, of which nothing is shown before its end; "stale" if the
            server is unreachable; "missing" if it has no such run.
        since: Unix seconds of the last answer, None if there was none.
        reason: A sentence about the state; of "reading", the progress.
    """

    state: Literal["connecting", "reading", "live", "stale", "missing"]
    since: float | None = None
    reason: str = ""


class Feed(ABC):
    """A subscription to the bandit server that runs while it has viewers."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.status = Status("connecting")
        self._heard: float | None = None
        self._changed = asyncio.Event()
        self._rendered: dict[tuple[Cursor | None, Selection], tuple[str, Cursor, int]] = {}
        self._task: asyncio.Task[None] | None = None
        self._viewers = 0
        self._stopping: asyncio.TimerHandle | None = None

    @abstractmethod
    async def follow(self) -> None:
        """Follow the server until it fails or ends the subscription. Call `on_answer` after every answer."""

    @property
    @abstractmethod
    def ready(self) -> bool:
        """Whether there is anything to show."""

    @property
    def progress(self) -> str:
        """The progress in words while the feed is not ready."""
        return ""

    @abstractmethod
    def render(self, cursor: Cursor | None, selection: Selection = "all") -> tuple[dict[str, Any] | None, Cursor, int]:
        """Render what is new since a cursor.

        Args:
            cursor: How much the browser has; None for nothing.
            selection: What its page needs.

        Returns:
            The payload (None if nothing is new), the cursor after it, and its number of rows.
        """

    def on_answer(self, changed: bool = True) -> None:
        """Record that the server has just answered. `changed`: there is something new to show."""
        self._heard = time.time()
        status = Status("live") if self.ready else Status("reading", reason=self.progress)
        if self.status != status:
            self.status = status
            changed = True
        if changed:
            self._notify()

    def _notify(self) -> None:
        self._rendered.clear()
        self._changed.set()
        self._changed = asyncio.Event()

    def join(self) -> None:
        """Count a viewer. The first one starts the feed."""
        self._viewers += 1
        if self._stopping is not None:
            self._stopping.cancel()
            self._stopping = None
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    def leave(self) -> None:
        """Count a viewer off. The feed stops LINGER seconds after the last one, at once if it is not ready."""
        self._viewers -= 1
        if self._viewers == 0:
            self._stopping = asyncio.get_running_loop().call_later(LINGER if self.ready else 0, self.stop)

    def stop(self) -> None:
        """Stop following the server. Its state is unknown from now on."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self.status = Status("connecting", self._heard)

    @property
    def stopped(self) -> bool:
        """Whether the feed has no viewers and follows nothing."""
        return self._viewers == 0 and self._task is None

    async def _run(self) -> None:
        pause = MIN_RETRY
        while True:
            before = self._heard
            try:
                await self.follow()
                failure = Status("missing", self._heard, "the run was deleted")
            except grpc.aio.AioRpcError as error:
                failure = self._failure(error)
            except ValueError as error:
                failure = Status("stale", self._heard, str(error))
            except Exception:
                # Nobody awaits this task: without this, a bug would leave pages "live" for ever.
                LOG.exception("the dashboard could not follow the bandit server")
                failure = Status("stale", self._heard, "the dashboard could not read the bandit server's answer")
            if failure != self.status:
                self.status = failure
                self._notify()
            pause = MIN_RETRY if self._heard != before else min(2 * pause, MAX_RETRY)
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))

    def _failure(self, error: grpc.aio.AioRpcError) -> Status:
        code, details = error.code(), error.details() or ""
        if code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION):
            return Status("missing", self._heard, details)
        if code in UNREACHABLE:
            return Status("stale", self._heard, "the bandit server does not answer")
        return Status("stale", self._heard, f"the bandit server answered {code.name}: {details}")

    async def wait_ready(self, seconds: float) -> None:
        """Wait until there is something to show, the server has failed, or the time is over."""
        deadline = time.monotonic() + seconds
        while not self.ready and self.status.state in ("connecting", "reading", "live") and time.monotonic() < deadline:
            await _wait(self._changed, deadline - time.monotonic())

    async def messages(self, selection: Selection = "all") -> AsyncGenerator[str]:
        """Yield server-sent events for one browser: `status` at every change; `data` with everything, then with news.

        After more than LIMIT rows of news everything is sent again, thinned, so that the browser's memory stays
        bounded.
        """
        cursor: Cursor | None = None
        status: Status | None = None
        rows = 0
        while True:
            changed = self._changed
            if status != self.status:
                status = self.status
                yield event("status", {"run": self.name, **asdict(status), "now": time.time()})
            if self.ready:
                text, cursor, size = self._render_shared(cursor if rows <= LIMIT else None, selection)
                rows = rows + size if rows <= LIMIT else 0
                if text:
                    yield text
            await asyncio.sleep(MESSAGE_INTERVAL)
            if not await _wait(changed, KEEPALIVE):
                yield ": keepalive\n\n"

    def _render_shared(self, cursor: Cursor | None, selection: Selection) -> tuple[str, Cursor, int]:
        key = (cursor, selection)
        if key not in self._rendered:
            payload, end, size = self.render(cursor, selection)
            self._rendered[key] = ("" if payload is None else event("data", payload), end, size)
        return self._rendered[key]


async def merge(streams: Sequence[AsyncGenerator[str]]) -> AsyncIterator[str]:
    """Yield the messages of several feeds as they come. Each feed waits until its last message has been taken."""
    ready: asyncio.Queue[str] = asyncio.Queue(maxsize=1)

    async def forward(stream: AsyncGenerator[str]) -> None:
        async with contextlib.aclosing(stream):
            async for message in stream:
                await ready.put(message)

    tasks = [asyncio.create_task(forward(stream)) for stream in streams]
    try:
        while True:
            yield await ready.get()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def event(name: str, payload: dict[str, Any]) -> str:
    """Format a server-sent event. JSON has no raw line breaks, so the payload is one `data` line."""
    return f"event: {name}\ndata: {json.dumps(payload, separators=(',', ':'), allow_nan=False)}\n\n"


async def _wait(changed: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(changed.wait(), seconds)
    except TimeoutError:
        return False
    return True
