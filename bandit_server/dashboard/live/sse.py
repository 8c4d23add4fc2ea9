"""One upstream, any number of browsers: what a feed has learnt is sent to each as server-sent events.

A browser holds a cursor, not a queue: it is sent what is new since its last message when it is ready for more, so
a slow one costs nothing and a fast one never waits for it. Browsers in step share one rendering.
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

from bandit_server.dashboard.view.run_view import Part

LOG = logging.getLogger(__name__)

# Seconds between two messages to one browser: what comes in between is sent together.
PACE = 0.12
# Seconds of silence after which a comment is sent, so that proxies keep the connection and a dead browser shows.
KEEPALIVE = 15.0
# Seconds a feed lives on without viewers: a reloaded page finds it as it was.
LINGER = 30.0
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 2.0
# What a call to a server that is not there, or does not move, ends with.
AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)

# Points a line and columns of pulls that a browser is sent at most: about what a wide screen can show.
LIMIT = 2000

# (epoch, version, batch): how much a browser has been sent.
Cursor = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Status:
    """How things stand with the bandit server. `since`: when it was last heard, Unix seconds, if it ever was.

    "reading": it tells a long history, of which nothing is shown before its end; `reason` says how far that is.
    """

    state: Literal["connecting", "reading", "live", "stale", "missing"]
    since: float | None = None
    reason: str = ""


class Feed(ABC):
    """What is known of one thing, followed upstream for as long as someone looks."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.status = Status("connecting")
        self._heard: float | None = None
        self._changed = asyncio.Event()
        self._rendered: dict[tuple[Cursor | None, Part], tuple[str, Cursor, int]] = {}
        self._task: asyncio.Task[None] | None = None
        self._viewers = 0
        self._stopping: asyncio.TimerHandle | None = None

    @abstractmethod
    async def follow(self) -> None:
        """Keep up with the server until it fails or has no more to say; call `heard` after every word of it."""

    @property
    @abstractmethod
    def ready(self) -> bool:
        """Whether there is anything to show."""

    @property
    def progress(self) -> str:
        """How far it is, in words, while it is not ready."""
        return ""

    @abstractmethod
    def render(self, cursor: Cursor | None, part: Part = "all") -> tuple[dict[str, Any] | None, Cursor, int]:
        """What is new since the cursor (None for all, or for nothing new), where that leads, and its size in rows."""

    def heard(self, changed: bool = True) -> None:
        """The server has answered just now; `changed` when there is something new to show."""
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
        """Count a viewer; the first one starts the feed."""
        self._viewers += 1
        if self._stopping is not None:
            self._stopping.cancel()
            self._stopping = None
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    def leave(self) -> None:
        """Count a viewer off; the feed stops some time after the last one."""
        self._viewers -= 1
        if self._viewers == 0:
            self._stopping = asyncio.get_running_loop().call_later(LINGER if self.ready else 0, self.stop)

    def stop(self) -> None:
        """Follow no more, and forget what was said of the server: nobody checks it now."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self.status = Status("connecting", self._heard)

    @property
    def stopped(self) -> bool:
        """Whether nobody looks and nothing is followed."""
        return self._viewers == 0 and self._task is None

    async def _run(self) -> None:
        pause = FIRST_PAUSE
        while True:
            before = self._heard
            try:
                await self.follow()
                failed = Status("missing", self._heard, "the run was deleted")
            except grpc.aio.AioRpcError as error:
                failed = self._failure(error)
            except ValueError as error:
                failed = Status("stale", self._heard, str(error))
            except Exception:
                # Nobody awaits this task: what it does not say itself would leave pages "live" for ever.
                LOG.exception("the dashboard could not follow the bandit server")
                failed = Status("stale", self._heard, "the dashboard could not read what the bandit server said")
            if failed != self.status:
                self.status = failed
                self._notify()
            pause = FIRST_PAUSE if self._heard != before else min(2 * pause, LONGEST_PAUSE)
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))

    def _failure(self, error: grpc.aio.AioRpcError) -> Status:
        code, details = error.code(), error.details() or ""
        if code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION):
            return Status("missing", self._heard, details)
        if code in AWAY:
            return Status("stale", self._heard, "the bandit server does not answer")
        return Status("stale", self._heard, f"the bandit server answers {code.name}: {details}")

    async def wait_ready(self, seconds: float) -> None:
        """Return once there is something to show, the server has failed, or the time is over."""
        deadline = time.monotonic() + seconds
        while not self.ready and self.status.state in ("connecting", "reading", "live") and time.monotonic() < deadline:
            await _wait(self._changed, deadline - time.monotonic())

    async def messages(self, part: Part = "all") -> AsyncGenerator[str]:
        """Server-sent events for one browser: `status` whenever it changes, `data` first whole, then what is new.

        After more than LIMIT rows of news the whole is sent again, thinned, so that the browser's share stays
        small however long it looks.
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
                text, cursor, size = self._cached(cursor if rows <= LIMIT else None, part)
                rows = rows + size if rows <= LIMIT else 0
                if text:
                    yield text
            await asyncio.sleep(PACE)
            if not await _wait(changed, KEEPALIVE):
                yield ": still here\n\n"

    def _cached(self, cursor: Cursor | None, part: Part) -> tuple[str, Cursor, int]:
        key = (cursor, part)
        if key not in self._rendered:
            payload, where, size = self.render(cursor, part)
            self._rendered[key] = ("" if payload is None else event("data", payload), where, size)
        return self._rendered[key]


async def merged(streams: Sequence[AsyncGenerator[str]]) -> AsyncIterator[str]:
    """The messages of several feeds as they come. Each waits until its last message has been taken."""
    ready: asyncio.Queue[str] = asyncio.Queue(maxsize=1)

    async def hand_on(stream: AsyncGenerator[str]) -> None:
        async with contextlib.aclosing(stream):
            async for message in stream:
                await ready.put(message)

    tasks = [asyncio.create_task(hand_on(stream)) for stream in streams]
    try:
        while True:
            yield await ready.get()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def event(name: str, payload: dict[str, Any]) -> str:
    """One server-sent event with a JSON payload, which never holds a line break of its own."""
    return f"event: {name}\ndata: {json.dumps(payload, separators=(',', ':'), allow_nan=False)}\n\n"


async def _wait(changed: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(changed.wait(), seconds)
    except TimeoutError:
        return False
    return True
