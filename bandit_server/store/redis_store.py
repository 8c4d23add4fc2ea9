"""The store over the Redis protocol: Redis, Valkey, or the embedded Valkey (embedded.py), by one code path."""

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
from bandit_server.store.base import AppendResult, Head, Heartbeat, Page, Store, fingerprint
from bandit_server.store.pipelined import PipelinedClient

# Seconds one call to the store may take in all; workers wait 5 s for the server, which must have answered by then.
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


class RedisStore(Store):
    """A store behind the Redis protocol. Open, use and close it in one event loop.

    Args:
        url: redis://, rediss:// or unix://, as redis-py understands it.
        deadline: Seconds a call may take.
        on_call: Called after every call with the seconds it took, and whether the store answered.

    Raises:
        StartError: The URL is invalid.
    """

    def __init__(
        self, url: str, deadline: float = DEADLINE, on_call: Callable[[float, bool], None] = lambda *_: None
    ) -> None:
        try:
            pool = BlockingConnectionPool.from_url(
                url,
                max_connections=CONNECTIONS,
                timeout=deadline,
                socket_connect_timeout=deadline,
                # Every call ends within our own deadline; redis-py would make a task for every message to time it.
                socket_timeout=None,
                # With version 3, redis-py does not notice that an idle connection was closed meanwhile.
                protocol=2,
                # Nothing is sent twice: an append whose answer was lost would come back as "changed".
                retry=Retry(NoBackoff(), 0),
            )
            # redis-py checks the options only here; this opens no connection.
            cast(Any, pool).make_connection()
        except (ValueError, TypeError) as error:
            raise StartError(f"--redis-url: {error} (expected something like redis://host:6379/0)") from error
        self._redis: Redis = Redis(connection_pool=pool)
        self._pool = pool
        self._pipelined = PipelinedClient(cast(Any, pool), APPEND, deadline)
        self._deadline = deadline
        self._on_call = on_call

    async def append(
        self, run: str, expected: Head, events: Sequence[bytes], *, incarnation: str = "", worker: str = ""
    ) -> AppendResult:
        """Append with one call of the script."""
        return await self._run_script(run, expected, events, incarnation, worker)

    async def is_head(self, run: str, head: Head) -> bool:
        """Compare with one call of the script, which appends nothing."""
        return await self._run_script(run, head) == "stored"

    async def _run_script(
        self, run: str, expected: Head, events: Sequence[bytes] = (), incarnation: str = "", worker: str = ""
    ) -> AppendResult:
        names = [keys.events(run), keys.head(run), keys.tombstone(run)]
        if worker:
            names.append(keys.heartbeat(run, worker))
        entries: list[str | bytes] = []
        for version, event in enumerate(events, expected.version + 1):
            entries += (f"{version}-0", event)
        with self._translating_errors():
            result = await self._pipelined.run_script(
                len(names),
                *names,
                f"{expected.version}-0",
                expected.incarnation,
                expected.last,
                incarnation,
                keys.HEARTBEAT_SECONDS,
                *entries,
            )
        return cast(AppendResult, result.decode())

    async def read(self, run: str, after: int, limit: int) -> Page:
        """Read the head and the events in one transaction."""
        async with self._call(), self._redis.pipeline(transaction=True) as pipe:
            _queue_head(pipe, run)
            pipe.xrange(keys.events(run), min=f"{after + 1}-0", count=limit)
            *head, entries = await pipe.execute()
        return Page(_head(head), _events(entries))

    async def read_backwards(self, run: str, before: int, limit: int) -> list[tuple[int, bytes]]:
        """Read a range of the stream from its end."""
        async with self._call():
            entries: Any = await self._redis.xrevrange(keys.events(run), max=f"{before}-0", count=limit)
        return _events(entries)

    async def heads(self, runs: Sequence[str]) -> list[Head]:
        """Read all heads in one transaction."""
        if not runs:
            return []
        async with self._call(), self._redis.pipeline(transaction=True) as pipe:
            for run in runs:
                _queue_head(pipe, run)
            replies = await pipe.execute()
        return [_head(replies[start : start + 3]) for start in range(0, len(replies), 3)]

    async def register(self, run: str, created: float) -> None:
        """Add the run to the sorted set of names, unless it is there."""
        async with self._call():
            await self._redis.zadd(keys.RUNS, {run: created}, nx=True)

    async def names(self, limit: int, after: tuple[float, str] | None = None) -> list[tuple[float, str]]:
        """Page through the sorted set of names, from the time of `after` on."""
        runs: list[tuple[float, str]] = []
        highest: float | str = after[0] if after else "+inf"
        start = 0
        async with self._call():
            while len(runs) < limit:
                page: Any = await self._redis.zrevrangebyscore(
                    keys.RUNS, highest, "-inf", start=start, num=limit, withscores=True
                )
                start += len(page)
                rows = [(float(created), name.decode()) for name, created in page]
                # Runs of one moment are in reverse order of their names, as the store orders them.
                runs += [row for row in rows if after is None or row < after]
                if len(page) < limit:
                    break
        return runs[:limit]

    async def delete(self, run: str) -> None:
        """Set the tombstone and remove the history in one transaction, then the name."""
        async with self._call():
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.set(keys.tombstone(run), "1", ex=keys.TOMBSTONE_SECONDS)
                pipe.delete(keys.events(run), keys.head(run), keys.snapshot(run))
                await pipe.execute()
            await self._redis.zrem(keys.RUNS, run)

    async def save_snapshot(self, run: str, fields: Mapping[str, bytes]) -> None:
        """Write the snapshot's hash and its expiry in one transaction."""
        key = keys.snapshot(run)
        async with self._call(), self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(key, mapping=cast(Any, fields))
            pipe.expire(key, keys.SNAPSHOT_SECONDS)
            await pipe.execute()

    async def load_snapshots(self, runs: Sequence[str], fields: Sequence[str]) -> list[dict[str, bytes]]:
        """Read the snapshots' hashes in one pipeline."""
        if not runs:
            return []
        async with self._call(), self._redis.pipeline(transaction=False) as pipe:
            for run in runs:
                pipe.hmget(keys.snapshot(run), list(fields))
            replies = await pipe.execute()
        return [
            {field: value for field, value in zip(fields, values, strict=True) if value is not None}
            for values in replies
        ]

    async def record_heartbeat(self, run: str, worker: str, request: bytes | None = None) -> None:
        """Write the heartbeat's key, or without a request set its expiry anew."""
        key = keys.heartbeat(run, worker)
        if request is not None:
            with self._translating_errors():
                await self._pipelined.execute("SET", key, request, "EX", keys.HEARTBEAT_SECONDS)
            return
        async with self._call():
            if not await self._redis.expire(key, keys.HEARTBEAT_SECONDS):
                await self._redis.set(key, b"", ex=keys.HEARTBEAT_SECONDS, nx=True)

    async def heartbeats(self, workers: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Heartbeat]:
        """Read the heartbeats' keys, and their ages off the time these have left, in one pipeline."""
        if not workers:
            return {}
        async with self._call(), self._redis.pipeline(transaction=False) as pipe:
            for run, worker in workers:
                pipe.get(keys.heartbeat(run, worker))
                pipe.pttl(keys.heartbeat(run, worker))
            replies = await pipe.execute()
        return {
            worker: Heartbeat(max(0.0, keys.HEARTBEAT_SECONDS - milliseconds / 1000), request)
            for worker, request, milliseconds in zip(workers, replies[::2], replies[1::2], strict=True)
            if request is not None and milliseconds > 0
        }

    async def ping(self) -> None:
        """Send a PING."""
        async with self._call():
            await self._redis.ping()

    async def close(self) -> None:
        """Close the connections of the pool and the pipelined one."""
        await self._pipelined.close()
        await self._redis.aclose()
        await self._pool.aclose()

    @contextlib.asynccontextmanager
    async def _call(self) -> AsyncIterator[None]:
        """Limit a call to the deadline, and translate its errors."""
        with self._translating_errors():
            async with asyncio.timeout(self._deadline):
                yield

    @contextlib.contextmanager
    def _translating_errors(self) -> Iterator[None]:
        """Raise StoreUnavailable for whatever goes wrong with a call, and report the call to `on_call`."""
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
            self._on_call(time.perf_counter() - began, answered)


def _queue_head(pipe: Any, run: str) -> None:
    """Queue the three commands whose replies `_head` takes."""
    pipe.exists(keys.tombstone(run))
    pipe.get(keys.head(run))
    pipe.xrevrange(keys.events(run), count=1)


def _head(replies: Sequence[Any]) -> Head:
    deleted, incarnation, entries = replies
    events = _events(entries)
    version, event = events[0] if events else (0, b"")
    return Head(version, (incarnation or b"").decode(), bool(deleted), fingerprint(event) if events else "")


def _events(entries: Sequence[tuple[bytes, dict[bytes, bytes]]]) -> list[tuple[int, bytes]]:
    return [(int(key.partition(b"-")[0]), fields[b"e"]) for key, fields in entries]
