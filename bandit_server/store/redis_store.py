"""The store over the Redis protocol: Redis, Valkey, or the embedded Valkey (embedded.py); one code path."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any, cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from bandit_server.errors import StartError, StoreUnavailable
from bandit_server.store import keys
from bandit_server.store.base import Head, Page, Pulse, Standing, fingerprint
from bandit_server.store.pipelined import Direct

# Seconds one call to the store may take in all; workers wait 5 s for the server, so it must have spoken by then.
DEADLINE = 2.0
CONNECTIONS = 64

# The one script: compare, then append. Plain XADD with explicit ids refuses a version that is there already, but
# accepts a gap, and knows neither incarnations nor tombstones; a transaction with WATCH takes three round trips.
# Whatever can be computed outside is an argument, ids for example: a script's own arithmetic takes the store longer
# than its commands.
#
# KEYS  events, incarnation, tombstone, and the caller's heartbeat if it is to be renewed
# ARGV  id of the expected last event or 0-0, expected incarnation, expected last event's fingerprint or "",
#       new incarnation or "", seconds that the heartbeat is kept, and of each event its id and itself
APPEND = """
local found = redis.call('MGET', KEYS[3], KEYS[2])
if found[1] then return 'deleted' end
if (found[2] or '') ~= ARGV[2] then return 'changed' end
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if (last and last[1] or '0-0') ~= ARGV[1] then return 'changed' end
if ARGV[3] ~= '' and last and redis.sha1hex(last[2][2]) ~= ARGV[3] then return 'changed' end
for i = 6, #ARGV, 2 do redis.call('XADD', KEYS[1], ARGV[i], 'e', ARGV[i + 1]) end
if ARGV[4] ~= '' then redis.call('SET', KEYS[2], ARGV[4]) end
if KEYS[4] and redis.call('EXPIRE', KEYS[4], ARGV[5]) == 0 then
  redis.call('SET', KEYS[4], '', 'EX', ARGV[5])
end
return 'stored'
"""


class RedisStore:
    """See base.py. To be opened, used and closed in one event loop.

    Args:
        url: redis://, rediss:// or unix://, as redis-py understands it.
        deadline: Seconds a call may take.
        called: Told after every call how long it took, and whether it was answered.

    Raises:
        StartError: The URL makes no sense.
    """

    def __init__(
        self, url: str, deadline: float = DEADLINE, called: Callable[[float, bool], None] = lambda *_: None
    ) -> None:
        try:
            pool = BlockingConnectionPool.from_url(
                url,
                max_connections=CONNECTIONS,
                timeout=deadline,
                socket_connect_timeout=deadline,
                # Every call ends within our own deadline; redis-py would make a task for every message to time it.
                socket_timeout=None,
                # Over version 3, redis-py does not notice that a connection it has at hand was closed meanwhile.
                protocol=2,
                # Nothing is sent twice, or an append whose answer was lost would be called "changed".
                retry=Retry(NoBackoff(), 0),
            )
            # Options that do not exist are noticed only here; this opens no connection.
            cast(Any, pool).make_connection()
        except (ValueError, TypeError) as error:
            raise StartError(f"--redis-url: {error} (expected something like redis://host:6379/0)") from error
        self._redis: Redis = Redis(connection_pool=pool)
        self._pool = pool
        self._direct = Direct(cast(Any, pool), APPEND, deadline)
        self._deadline = deadline
        self._called = called

    async def append(
        self, run: str, expected: Head, events: Sequence[bytes], *, incarnation: str = "", worker: str = ""
    ) -> Standing:
        """See base.py."""
        return await self._compare(run, expected, events, incarnation, worker)

    async def stands(self, run: str, head: Head) -> bool:
        """See base.py."""
        return await self._compare(run, head) == "stored"

    async def _compare(
        self, run: str, expected: Head, events: Sequence[bytes] = (), incarnation: str = "", worker: str = ""
    ) -> Standing:
        """Append if the run stands there."""
        places = [keys.events(run), keys.head(run), keys.tombstone(run)]
        if worker:
            places.append(keys.pulse(run, worker))
        entries: list[str | bytes] = []
        for version, event in enumerate(events, expected.version + 1):
            entries += (f"{version}-0", event)
        with self._counted():
            answer = await self._direct.script(
                len(places),
                *places,
                f"{expected.version}-0",
                expected.incarnation,
                expected.last,
                incarnation,
                keys.PULSE_SECONDS,
                *entries,
            )
        return cast(Standing, answer.decode())

    async def read(self, run: str, after: int, limit: int) -> Page:
        """See base.py."""
        async with self._answering(), self._redis.pipeline(transaction=True) as pipe:
            _ask_head(pipe, run)
            pipe.xrange(keys.events(run), min=f"{after + 1}-0", count=limit)
            *told, found = await pipe.execute()
        return Page(_head(told), _events(found))

    async def read_back(self, run: str, before: int, limit: int) -> list[tuple[int, bytes]]:
        """See base.py."""
        async with self._answering():
            found: Any = await self._redis.xrevrange(keys.events(run), max=f"{before}-0", count=limit)
        return _events(found)

    async def heads(self, runs: Sequence[str]) -> list[Head]:
        """See base.py."""
        if not runs:
            return []
        async with self._answering(), self._redis.pipeline(transaction=True) as pipe:
            for run in runs:
                _ask_head(pipe, run)
            told = await pipe.execute()
        return [_head(told[at : at + 3]) for at in range(0, len(told), 3)]

    async def enlist(self, run: str, created: float) -> None:
        """See base.py."""
        async with self._answering():
            await self._redis.zadd(keys.RUNS, {run: created}, nx=True)

    async def names(self, limit: int, after: tuple[float, str] | None = None) -> list[tuple[float, str]]:
        """See base.py."""
        found: list[tuple[float, str]] = []
        highest: float | str = after[0] if after else "+inf"
        start = 0
        async with self._answering():
            while len(found) < limit:
                page: Any = await self._redis.zrevrangebyscore(
                    keys.RUNS, highest, "-inf", start=start, num=limit, withscores=True
                )
                start += len(page)
                rows = [(float(created), name.decode()) for name, created in page]
                # Runs of one moment are ordered by name, backwards, as the store orders them.
                found += [row for row in rows if after is None or row < after]
                if len(page) < limit:
                    break
        return found[:limit]

    async def delete(self, run: str) -> None:
        """See base.py."""
        async with self._answering():
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.set(keys.tombstone(run), "1", ex=keys.TOMBSTONE_SECONDS)
                pipe.delete(keys.events(run), keys.head(run), keys.snapshot(run))
                await pipe.execute()
            await self._redis.zrem(keys.RUNS, run)

    async def keep(self, run: str, snapshot: Mapping[str, bytes]) -> None:
        """See base.py."""
        key = keys.snapshot(run)
        async with self._answering(), self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(key, mapping=cast(Any, snapshot))
            pipe.expire(key, keys.SNAPSHOT_SECONDS)
            await pipe.execute()

    async def kept(self, runs: Sequence[str], fields: Sequence[str]) -> list[dict[str, bytes]]:
        """See base.py."""
        if not runs:
            return []
        async with self._answering(), self._redis.pipeline(transaction=False) as pipe:
            for run in runs:
                pipe.hmget(keys.snapshot(run), list(fields))
            found = await pipe.execute()
        return [{name: part for name, part in zip(fields, parts, strict=True) if part is not None} for parts in found]

    async def beat(self, run: str, worker: str, heartbeat: bytes | None = None) -> None:
        """See base.py."""
        key = keys.pulse(run, worker)
        if heartbeat is not None:
            with self._counted():
                await self._direct.command("SET", key, heartbeat, "EX", keys.PULSE_SECONDS)
            return
        async with self._answering():
            if not await self._redis.expire(key, keys.PULSE_SECONDS):
                await self._redis.set(key, b"", ex=keys.PULSE_SECONDS, nx=True)

    async def pulses(self, workers: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Pulse]:
        """See base.py."""
        if not workers:
            return {}
        async with self._answering(), self._redis.pipeline(transaction=False) as pipe:
            for run, worker in workers:
                pipe.get(keys.pulse(run, worker))
                pipe.pttl(keys.pulse(run, worker))
            told = await pipe.execute()
        return {
            worker: Pulse(max(0.0, keys.PULSE_SECONDS - left / 1000), heartbeat)
            for worker, heartbeat, left in zip(workers, told[::2], told[1::2], strict=True)
            if heartbeat is not None and left > 0
        }

    async def ping(self) -> None:
        """See base.py."""
        async with self._answering():
            await self._redis.ping()

    async def close(self) -> None:
        """See base.py."""
        await self._direct.close()
        await self._redis.aclose()
        await self._pool.aclose()

    @contextlib.asynccontextmanager
    async def _answering(self) -> AsyncIterator[None]:
        """Within the deadline, or StoreUnavailable."""
        with self._counted():
            async with asyncio.timeout(self._deadline):
                yield

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        """A call to the store; what goes wrong with it is StoreUnavailable."""
        began = time.perf_counter()
        answered = False
        try:
            yield
            answered = True
        except TimeoutError as error:
            raise StoreUnavailable(f"the store has not answered within {self._deadline:g} s; try again") from error
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"the store cannot be used: {str(error).rstrip('.')}; try again") from error
        finally:
            self._called(time.perf_counter() - began, answered)


def _ask_head(pipe: Any, run: str) -> None:
    pipe.exists(keys.tombstone(run))
    pipe.get(keys.head(run))
    pipe.xrevrange(keys.events(run), count=1)


def _head(told: Sequence[Any]) -> Head:
    deleted, incarnation, last = told
    events = _events(last)
    version, event = events[0] if events else (0, b"")
    return Head(version, (incarnation or b"").decode(), bool(deleted), fingerprint(event) if events else "")


def _events(entries: Sequence[tuple[bytes, dict[bytes, bytes]]]) -> list[tuple[int, bytes]]:
    return [(int(key.partition(b"-")[0]), fields[b"e"]) for key, fields in entries]
