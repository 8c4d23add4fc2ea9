from __future__ import annotations

import asyncio
import contextlib

import pytest

from bandit_server.deadline import Deadline


class Late(Exception):
    """A block has taken too long."""


async def wait(deadline: Deadline, until: asyncio.Event) -> str:
    with deadline():
        await until.wait()
    return "in time"


def test_a_block_that_takes_too_long_ends_in_its_error_and_its_task_goes_on() -> None:
    async def late() -> str:
        with pytest.raises(Late):
            await wait(Deadline(0.01, Late), asyncio.Event())
        # Nothing of the cancellation is left.
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling()
        await asyncio.sleep(0)
        return "goes on"

    assert asyncio.run(late()) == "goes on"


def test_of_many_blocks_only_those_end_that_take_too_long() -> None:
    async def many() -> list[object]:
        deadline, done, never = Deadline(0.05, Late), asyncio.Event(), asyncio.Event()
        tasks = [asyncio.create_task(wait(deadline, until)) for until in (never, done, never, done)]
        asyncio.get_running_loop().call_later(0.01, done.set)
        first = await asyncio.gather(*tasks, return_exceptions=True)
        # Once more, after the timer had nothing to wait for.
        return [*first, *await asyncio.gather(wait(deadline, never), wait(deadline, done), return_exceptions=True)]

    found = asyncio.run(many())
    assert [type(result) for result in found] == [Late, str, Late, str, Late, str]


def test_of_nested_blocks_the_outer_one_ends_in_its_own_time() -> None:
    deadline, ended = Deadline(0.1, Late), list[str]()

    async def alone(name: str) -> None:
        with contextlib.suppress(Late):
            await wait(deadline, asyncio.Event())
        ended.append(name)

    async def nested() -> None:
        with contextlib.suppress(Late), deadline():
            between = asyncio.create_task(alone("one that began between outer and inner"))
            await asyncio.sleep(0)
            await wait(deadline, asyncio.Event())
        ended.append("outer")
        await between

    asyncio.run(nested())
    assert ended == ["outer", "one that began between outer and inner"]


def test_a_block_that_is_cancelled_by_someone_else_is_cancelled() -> None:
    async def cancelled() -> None:
        task = asyncio.create_task(wait(Deadline(60.0, Late), asyncio.Event()))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())


def test_an_error_inside_a_block_is_told_as_it_is() -> None:
    async def failing() -> None:
        with Deadline(60.0, Late)():
            raise KeyError("its own")

    with pytest.raises(KeyError, match="its own"):
        asyncio.run(failing())
