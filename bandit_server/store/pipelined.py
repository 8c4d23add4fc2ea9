"""A connection for the frequent commands: each is written at once, and replies come in order.

redis-py opens the connection and logs in; hiredis reads and writes the protocol. An append takes 53, 26 and 18 µs of
processor time with 1, 8 and 64 callers at once, and 174, 171 and 192 µs through redis-py's own client and its pool
(redis-py 8.1). For a report and a selection, the whole server takes 10 to 12 % less processor time and answers 10, 24
and 14 % more of them a second (docs/server-speed.md). With nothing but redis-py's public methods of one connection
(`send_packed_command`, `read_response`) an append would take 105, 81 and 63 µs.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from typing import Any, cast

import hiredis
from redis.asyncio import ConnectionPool
from redis.exceptions import InvalidResponse, NoScriptError, ResponseError

Argument = str | int | bytes


class PipelinedConnection(asyncio.Protocol):
    """One connection, on which many commands may wait for their replies. Nothing is sent twice.

    Args:
        transport: An open connection without commands in flight.
        deadline: Seconds that a command may take. If one takes longer, the connection is closed.

    Attributes:
        closed: Whether the connection is closed.
    """

    def __init__(self, transport: asyncio.Transport, deadline: float) -> None:
        self.closed = False
        self._transport = transport
        self._deadline = deadline
        self._loop = asyncio.get_running_loop()
        # The commands in flight, oldest first: when each was written, and its reply to come.
        self._in_flight: deque[tuple[float, asyncio.Future[bytes]]] = deque()
        self._reader = hiredis.Reader(protocolError=InvalidResponse, replyError=_reply_error)
        self._timer: asyncio.TimerHandle | None = None
        transport.set_protocol(self)

    def send(self, *arguments: Argument) -> asyncio.Future[bytes]:
        """Write a command; return its reply to come.

        Raises:
            ResponseError: The future's: the store refuses the command.
            InvalidResponse: The future's: the reply cannot be parsed.
            OSError: The future's: the connection was closed.
            TimeoutError: The future's: there was no reply within the deadline.
        """
        reply: asyncio.Future[bytes] = self._loop.create_future()
        self._in_flight.append((self._loop.time(), reply))
        if self._timer is None:
            self._timer = self._loop.call_later(self._deadline, self._check_deadline)
        # Its stub means a tuple of any length.
        self._transport.write(hiredis.pack_command(arguments))  # type: ignore[arg-type]
        return reply

    def data_received(self, data: bytes) -> None:
        """Parse the replies, and set those of the oldest commands."""
        self._reader.feed(data)
        try:
            while (value := self._reader.gets()) is not False:
                if not self._in_flight:
                    raise InvalidResponse("the store has sent a reply without a command")
                _, reply = self._in_flight.popleft()
                # The caller was cancelled: drop the reply.
                if reply.done():
                    continue
                if isinstance(value, Exception):
                    reply.set_exception(value)
                else:
                    reply.set_result(value)
        except InvalidResponse as error:
            self._close(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the commands in flight."""
        self._close(exc or ConnectionError("it has closed the connection"))

    def close(self) -> None:
        """Close the connection, and fail the commands in flight. Idempotent."""
        self._close(ConnectionError("the connection was closed"))

    def _check_deadline(self) -> None:
        self._timer = None
        if self._in_flight:
            left = self._in_flight[0][0] + self._deadline - self._loop.time()
            if left <= 0:
                self._close(TimeoutError())
            else:
                self._timer = self._loop.call_later(left, self._check_deadline)

    def _close(self, error: Exception) -> None:
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._transport.abort()
        while self._in_flight:
            _, reply = self._in_flight.popleft()
            if not reply.done():
                reply.set_exception(error)


class PipelinedClient:
    """A pipelined connection, opened when it is needed, and a script. Replies are strings, never lists.

    Its methods raise RedisError, OSError or TimeoutError if there is no reply, or if it is a refusal.

    Args:
        pool: Makes connections to the store.
        script: The script.
        deadline: Seconds that a command may take.
    """

    def __init__(self, pool: ConnectionPool, script: str, deadline: float) -> None:
        self._pool = pool
        self._script = script
        self._sha = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
        self._deadline = deadline
        self._opening = asyncio.Lock()
        # redis-py's, which must not be collected while its transport is in use.
        self._redis_connection: Any = None
        self._connection: PipelinedConnection | None = None

    async def execute(self, *arguments: Argument) -> bytes:
        """Return the reply to a command."""
        return await (await self._open()).send(*arguments)

    async def run_script(self, *arguments: Argument) -> bytes:
        """Return the script's reply. The arguments are the number of keys, the keys, and the script's own."""
        connection = await self._open()
        try:
            return await connection.send("EVALSHA", self._sha, *arguments)
        except NoScriptError:
            # A store that has just started does not have the script, and has done nothing.
            await connection.send("SCRIPT", "LOAD", self._script)
            return await connection.send("EVALSHA", self._sha, *arguments)

    async def close(self) -> None:
        """Close the connection. Idempotent."""
        if self._connection is not None:
            self._connection.close()
            await self._redis_connection.disconnect(nowait=True)
            self._connection = None

    async def _open(self) -> PipelinedConnection:
        if self._connection is not None and not self._connection.closed:
            return self._connection
        async with asyncio.timeout(self._deadline), self._opening:
            if self._connection is None or self._connection.closed:
                await self.close()
                redis_connection: Any = cast(Any, self._pool).make_connection()
                try:
                    await redis_connection.connect()
                except BaseException:
                    await redis_connection.disconnect(nowait=True)
                    raise
                self._redis_connection = redis_connection
                # redis-py has no public way to the transport of a connection that it has opened.
                self._connection = PipelinedConnection(redis_connection._writer.transport, self._deadline)
            return self._connection


def _reply_error(message: str) -> ResponseError:
    return NoScriptError(message) if message.startswith("NOSCRIPT ") else ResponseError(message)
