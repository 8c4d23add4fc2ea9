"""Calls of one script that wait at the same time travel together: one message to the store and one back for all."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

# Calls in one message.
MOST = 256

Argument = str | int | bytes


@dataclass(slots=True)
class _Call:
    words: Sequence[Argument]
    answer: asyncio.Future[Any]


class Batches:
    """Calls of a script. While a message is under way, those that come wait for the next one; nothing is sent twice.

    Args:
        redis: The store.
        script: The script.
        deadline: Seconds that a message may be under way; its callers then get a TimeoutError.
    """

    def __init__(self, redis: Redis, script: str, deadline: float) -> None:
        self._redis = redis
        self._script = script
        self._sha: str = redis.register_script(script).sha
        self._deadline = deadline
        self._waiting: list[_Call] = []
        self._sending: asyncio.Task[None] | None = None

    async def call(self, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """The script's answer. A caller that is cancelled before its message has gone has sent nothing.

        Raises:
            RedisError, OSError, TimeoutError: There is none.
        """
        call = _Call([len(keys), *keys, *arguments], asyncio.get_running_loop().create_future())
        self._waiting.append(call)
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())
        return await call.answer

    async def close(self) -> None:
        """Let go of what is under way. Idempotent."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.wait([self._sending])

    async def _send(self) -> None:
        try:
            while self._waiting:
                batch = [call for call in self._waiting[:MOST] if not call.answer.done()]
                del self._waiting[:MOST]
                try:
                    async with asyncio.timeout(self._deadline):
                        await self._together(batch)
                except (RedisError, OSError, TimeoutError) as error:
                    for call in batch:
                        if not call.answer.done():
                            call.answer.set_exception(error)
        finally:
            self._sending = None

    async def _together(self, batch: Sequence[_Call]) -> None:
        unknown = await self._evaluate(batch)
        if unknown:
            # A store that has just started does not have the script, and has done nothing.
            await self._redis.script_load(self._script)
            for call in await self._evaluate(unknown):
                call.answer.set_exception(NoScriptError("the store forgets scripts as soon as it is given them"))

    async def _evaluate(self, batch: Sequence[_Call]) -> list[_Call]:
        """Send the calls, and hand out the answers; returns those that the store does not have the script for."""
        if not batch:
            return []
        async with self._redis.pipeline(transaction=False) as pipe:
            for call in batch:
                pipe.execute_command("EVALSHA", self._sha, *call.words)
            answers = await pipe.execute(raise_on_error=False)
        unknown = []
        for call, answer in zip(batch, answers, strict=True):
            if call.answer.done():
                continue
            if isinstance(answer, NoScriptError):
                unknown.append(call)
            elif isinstance(answer, Exception):
                call.answer.set_exception(answer)
            else:
                call.answer.set_result(answer)
        return unknown
