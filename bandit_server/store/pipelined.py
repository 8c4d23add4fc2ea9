"""What is asked of the store all the time, on a connection of its own: written at once, and answered in order.

redis-py opens the connection, and greets the store; hiredis writes and reads the protocol. What redis-py does for a
command later on takes twice the time of all else that an append takes.
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


class Line(asyncio.Protocol):
    """Commands under way on one connection. Nothing is sent twice.

    Args:
        transport: Of a connection on which nothing is under way.
        deadline: Seconds that a command may be under way. If one takes longer, the connection ends.

    Attributes:
        ended: Whether the connection is of no use any more.
    """

    def __init__(self, transport: asyncio.Transport, deadline: float) -> None:
        self.ended = False
        self._transport = transport
        self._deadline = deadline
        self._loop = asyncio.get_running_loop()
        # When each was written, oldest first.
        self._waiting: deque[tuple[float, asyncio.Future[bytes]]] = deque()
        self._reader = hiredis.Reader(protocolError=InvalidResponse, replyError=_refusal)
        self._timer: asyncio.TimerHandle | None = None
        transport.set_protocol(self)

    def ask(self, *words: Argument) -> asyncio.Future[bytes]:
        """The answer to come.

        Raises:
            ResponseError, InvalidResponse: It is a refusal; or none that can be read.
            OSError, TimeoutError: There is none.
        """
        answer: asyncio.Future[bytes] = self._loop.create_future()
        self._waiting.append((self._loop.time(), answer))
        if self._timer is None:
            self._timer = self._loop.call_later(self._deadline, self._look)
        # Its stub means a tuple of any length.
        self._transport.write(hiredis.pack_command(words))  # type: ignore[arg-type]
        return answer

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        self._reader.feed(data)
        try:
            while (said := self._reader.gets()) is not False:
                if not self._waiting:
                    raise InvalidResponse("the store says what nobody has asked")
                _, answer = self._waiting.popleft()
                # Who has been cancelled since has nobody to tell.
                if answer.done():
                    continue
                if isinstance(said, Exception):
                    answer.set_exception(said)
                else:
                    answer.set_result(said)
        except InvalidResponse as error:
            self._end(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._end(exc or ConnectionError("it has closed the connection"))

    def close(self) -> None:
        """End it. Idempotent."""
        self._end(ConnectionError("the connection was closed"))

    def _look(self) -> None:
        self._timer = None
        if self._waiting:
            left = self._waiting[0][0] + self._deadline - self._loop.time()
            if left <= 0:
                self._end(TimeoutError())
            else:
                self._timer = self._loop.call_later(left, self._look)

    def _end(self, error: Exception) -> None:
        self.ended = True
        if self._timer is not None:
            self._timer.cancel()
        self._transport.abort()
        while self._waiting:
            _, answer = self._waiting.popleft()
            if not answer.done():
                answer.set_exception(error)


class Direct:
    """A line to the store, which is opened when it is needed, and a script there. Answers are words, not lists.

    Args:
        pool: Whose connections reach the store.
        script: The script.
        deadline: Seconds that a command may take.

    Methods raise RedisError, OSError or TimeoutError if there is no answer, or if it is a refusal.
    """

    def __init__(self, pool: ConnectionPool, script: str, deadline: float) -> None:
        self._pool = pool
        self._script = script
        self._sha = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
        self._deadline = deadline
        self._opening = asyncio.Lock()
        self._connection: Any = None
        self._line: Line | None = None

    async def command(self, *words: Argument) -> bytes:
        """A command's answer."""
        return await (await self._open()).ask(*words)

    async def script(self, *words: Argument) -> bytes:
        """The script's answer. `words`: how many keys, the keys, the arguments."""
        line = await self._open()
        try:
            return await line.ask("EVALSHA", self._sha, *words)
        except NoScriptError:
            # A store that has just started does not have it, and has done nothing.
            await line.ask("SCRIPT", "LOAD", self._script)
            return await line.ask("EVALSHA", self._sha, *words)

    async def close(self) -> None:
        """Let go of the connection. Idempotent."""
        if self._line is not None:
            self._line.close()
            await self._connection.disconnect(nowait=True)
            self._line = None

    async def _open(self) -> Line:
        if self._line is not None and not self._line.ended:
            return self._line
        async with asyncio.timeout(self._deadline), self._opening:
            if self._line is None or self._line.ended:
                await self.close()
                connection: Any = cast(Any, self._pool).make_connection()
                try:
                    await connection.connect()
                except BaseException:
                    await connection.disconnect(nowait=True)
                    raise
                self._connection = connection
                # redis-py has no other way to what it has opened.
                self._line = Line(connection._writer.transport, self._deadline)
            return self._line


def _refusal(said: str) -> ResponseError:
    return NoScriptError(said) if said.startswith("NOSCRIPT ") else ResponseError(said)
