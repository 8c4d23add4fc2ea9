"""The two stores on which the contract is tested: the embedded Valkey, and an independent Redis."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from bandit_server.store.embedded import EmbeddedValkey
from bandit_server.store.redis_store import RedisStore
from tests.stores import RedisServer, process_id, send


@dataclass
class Place:
    """A real store that can be frozen, killed and started again.

    Attributes:
        url: The store's URL.
        store: The client under test.
    """

    url: str
    store: RedisStore
    _start_again: Callable[[], Awaitable[None]]

    def freeze(self) -> Callable[[], None]:
        """Suspend its process; return a function that resumes it."""
        pid = process_id(self.url)
        send(signal.SIGSTOP, pid)
        return lambda: send(signal.SIGCONT, pid)

    async def kill(self) -> None:
        """Kill its process with SIGKILL."""
        send(signal.SIGKILL, process_id(self.url))

    async def start_again(self) -> None:
        """Start it again after `kill`; the embedded store restarts by itself."""
        await self._start_again()


Scenario = Callable[[Place], Awaitable[None]]


@contextlib.asynccontextmanager
async def embedded(directory: Path) -> AsyncIterator[tuple[str, Callable[[], Awaitable[None]]]]:
    """Run the embedded Valkey; yield its URL, and a function to start it again, which does nothing."""

    async def start_again() -> None:
        pass

    valkey = EmbeddedValkey(directory, fsync="always")
    try:
        await valkey.start()
        yield valkey.url, start_again
    finally:
        await valkey.stop()


@contextlib.asynccontextmanager
async def redis(directory: Path) -> AsyncIterator[tuple[str, Callable[[], Awaitable[None]]]]:
    """Run a redis-server; yield its URL, and a function to start it again."""
    server = RedisServer(directory)

    async def start_again() -> None:
        server.wait()
        server.start()

    try:
        server.start()
        yield server.url, start_again
    finally:
        server.stop()


@pytest.fixture(params=[embedded, redis], ids=["embedded", "redis"])
def at_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., None]:
    """Run a scenario on a store of its own, in an event loop of its own."""

    def play(scenario: Scenario, deadline: float = 5.0) -> None:
        async def whole() -> None:
            async with request.param(tmp_path / "data") as (url, start_again):
                store = RedisStore(url, deadline)
                try:
                    await scenario(Place(url, store, start_again))
                finally:
                    await store.close()

        asyncio.run(whole())

    return play
