"""The embedded store as a process: it belongs to one server, ends with it, and restarts with all its data."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path

import pytest
import uvloop

from bandit_server.errors import StartError
from bandit_server.store import embedded
from bandit_server.store.base import Head
from bandit_server.store.embedded import ORPHAN_SECONDS, EmbeddedValkey
from bandit_server.store.redis_store import RedisStore
from tests.launch import ROOT
from tests.server_process import eventually
from tests.stores import answers, connected, process_id, send, soon, store_processes


@contextlib.asynccontextmanager
async def running(
    directory: Path, orphan_seconds: float = ORPHAN_SECONDS
) -> AsyncIterator[tuple[EmbeddedValkey, RedisStore]]:
    """Run an embedded store on a data directory."""
    valkey = EmbeddedValkey(directory, fsync="always", orphan_seconds=orphan_seconds)
    try:
        await valkey.start()
        store = RedisStore(valkey.url, deadline=5)
        yield valkey, store
        await store.close()
    finally:
        await valkey.stop()


@contextlib.contextmanager
def server(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server process with a store on a data directory; it prints every version that was stored."""
    command = [sys.executable, "-m", "tests.bandit_server.store.server", str(directory)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
        for orphan in store_processes(directory):
            with contextlib.suppress(ProcessLookupError):
                send(signal.SIGKILL, orphan.pid)


def killed_after(process: subprocess.Popen[bytes], version: int) -> int:
    """Kill the server with SIGKILL once it has printed this version; return the last one it has printed."""
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= version:
            break
    process.kill()
    rest = process.stdout.read().split()
    process.wait(timeout=10)
    return int(rest[-1]) if rest else int(line)


def history(directory: Path, orphan_seconds: float = ORPHAN_SECONDS) -> list[tuple[int, bytes]]:
    """Start a store anew, and return its history of run r."""

    async def whole() -> list[tuple[int, bytes]]:
        async with running(directory, orphan_seconds) as (_, store):
            return (await store.read("r", 0, 1_000_000)).events

    return asyncio.run(whole())


@pytest.mark.parametrize("name", ["dump.rdb", "appendonlydir", "valkey.log"])
def test_another_programs_store_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"mine")

    async def start() -> None:
        async with running(tmp_path):
            pass

    with pytest.raises(StartError, match=f"holds {name} but no server.lock, so it is not the data of an OPTIMA server"):
        asyncio.run(start())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {name: b"mine"}


def test_everything_is_there_again_after_a_stop(tmp_path: Path) -> None:
    async def first() -> None:
        async with running(tmp_path) as (_, store):
            assert await store.append("r", Head(0, "", False), [b"1", b"2"], incarnation="one") == "stored"
            await store.register("r", 4.5)
            await store.delete("gone")
            await store.record_heartbeat("r", "w", b"heartbeat")

    async def second() -> None:
        async with running(tmp_path) as (_, store):
            page = await store.read("r", 0, 10)
            assert page.head == Head(2, "one", False)
            assert page.events == [(1, b"1"), (2, b"2")]
            assert await store.names(10) == [(4.5, "r")]
            assert (await store.heads(["gone"]))[0].deleted
            assert (await store.heartbeats([("r", "w")]))["r", "w"].request == b"heartbeat"

    asyncio.run(first())
    asyncio.run(second())


def test_a_second_server_is_refused(tmp_path: Path) -> None:
    """The first server is not disturbed, and once it has stopped, the directory is free."""

    async def scenario() -> None:
        async with running(tmp_path) as (_, store):
            other = EmbeddedValkey(tmp_path)
            with pytest.raises(StartError, match=rf"--data-dir {tmp_path} is in use by another server; .*choose"):
                await other.start()
            await other.stop()
            await store.ping()
            assert len(store_processes(tmp_path)) == 1
        await other.start()
        assert answers(other.url)
        await other.stop()

    asyncio.run(scenario())


def test_a_directory_with_a_long_name(tmp_path: Path) -> None:
    """It is longer than a socket's path may be; the directory made elsewhere is removed with the store."""
    directory = tmp_path / ("long" * 40) / "data"

    async def scenario() -> None:
        async with running(directory) as (valkey, store):
            assert await store.append("r", Head(0, "", False), [b"1"], incarnation="one") == "stored"
            socket = Path(valkey.url.removeprefix("unix://"))
            assert socket.is_socket()
            assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
        assert not socket.parent.exists()
        assert store_processes(directory) == []

    asyncio.run(scenario())
    assert history(directory) == [(1, b"1")]


def test_nobody_else_can_reach_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path / "data") as (valkey, _):
            with connected(valkey.url) as client:
                assert client.config_get("port") == {"port": "0"}
            socket = Path(valkey.url.removeprefix("unix://"))
            for path in (socket, tmp_path / "data"):
                assert stat.S_IMODE(path.stat().st_mode) == 0o700

    asyncio.run(scenario())


def test_it_is_gone_after_stop(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as (valkey, _):
            assert [process.pid for process in store_processes(tmp_path)] == [process_id(valkey.url)]
            for _ in range(2):
                await valkey.stop()
                assert store_processes(tmp_path) == []

    asyncio.run(scenario())


def test_a_frozen_one_is_gone_after_stop(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as (valkey, _):
            send(signal.SIGSTOP, process_id(valkey.url))
            began = time.monotonic()
            await valkey.stop()
            assert time.monotonic() - began < embedded.STOP_SECONDS / 2
            assert store_processes(tmp_path) == []

    asyncio.run(scenario())


@pytest.mark.parametrize("moment", ["killed", "noticed", "launched", "listening"])
def test_stopping_while_it_is_started_again(tmp_path: Path, caplog: pytest.LogCaptureFixture, moment: str) -> None:
    """Whenever stop is called, no process is left and the directory is free."""

    async def scenario() -> None:
        async with running(tmp_path) as (valkey, _):
            socket = Path(valkey.url.removeprefix("unix://"))
            (first,) = store_processes(tmp_path)
            before = socket.stat().st_ctime_ns
            first.kill()
            if moment == "noticed":
                await soon(lambda: "is restarted" in caplog.text)
            elif moment == "launched":
                await soon(lambda: any(process != first for process in store_processes(tmp_path)))
            elif moment == "listening":
                await soon(lambda: socket.exists() and socket.stat().st_ctime_ns != before)
            await valkey.stop()
            assert store_processes(tmp_path) == []
        async with running(tmp_path) as (_, store):
            await store.ping()

    asyncio.run(scenario())


def test_it_ends_with_its_killed_server(tmp_path: Path) -> None:
    """Twice in a row: what was stored is there at the next start, and a new server appends to it."""
    stored = 0
    for _ in range(2):
        with server(tmp_path) as process:
            stored = killed_after(process, stored + 50)
            eventually(lambda: store_processes(tmp_path) == [])
    events = history(tmp_path)
    assert len(events) >= stored
    assert events == [(version, b"%d" % version) for version in range(1, len(events) + 1)]


def test_it_ends_with_a_program_that_does_not_stop_its_server(tmp_path: Path) -> None:
    settings = f"port=0, dashboard_port=None, data_dir=pathlib.Path({str(tmp_path)!r})"
    program = f"""
import pathlib
from bandit_server.config import Settings
from bandit_server.server import Server
Server(Settings({settings})).start()
raise SystemExit(3)
"""
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60)
    assert ended.returncode == 3
    eventually(lambda: store_processes(tmp_path) == [])


def test_the_next_server_need_not_wait_for_the_orphan(tmp_path: Path) -> None:
    """It starts right after the kill, whether or not the earlier server's store has ended by then."""
    with server(tmp_path) as process:
        stored = killed_after(process, 50)
        events = history(tmp_path)
    assert len(events) >= stored
    assert events == [(version, b"%d" % version) for version in range(1, len(events) + 1)]


def test_an_orphan_that_does_not_end_is_ended(tmp_path: Path) -> None:
    """A stopped store does not handle the signal that the kernel sends it when its server is killed."""
    with server(tmp_path) as process:
        assert process.stdout is not None
        process.stdout.readline()
        (orphan,) = store_processes(tmp_path)
        send(signal.SIGSTOP, orphan.pid)
        process.kill()
        process.wait(timeout=10)
        assert orphan.is_running()
        events = history(tmp_path, orphan_seconds=0.5)
        assert events == [(version, b"%d" % version) for version in range(1, len(events) + 1)]
        assert events
        eventually(lambda: store_processes(tmp_path) == [])


def test_a_power_cut_costs_the_last_append_alone(tmp_path: Path) -> None:
    """The file ends in the middle of an append of three: none of the three is there, and all before."""

    async def write() -> None:
        async with running(tmp_path) as (_, store):
            assert await store.append("r", Head(0, "", False), [b"1", b"2"], incarnation="one") == "stored"
            assert await store.append("r", Head(2, "one", False), [b"3", b"4", b"5"]) == "stored"

    asyncio.run(write())
    (file,) = (tmp_path / "appendonlydir").glob("*.incr.aof")
    os.truncate(file, file.stat().st_size - 20)
    assert history(tmp_path) == [(1, b"1"), (2, b"2")]


@pytest.mark.parametrize("name", ["data", "long" * 40])
def test_a_store_that_does_not_start_says_why(tmp_path: Path, name: str) -> None:
    """It leaves no lock: the same server starts once the cause is removed."""
    directory = tmp_path / name
    directory.mkdir()
    (directory / "server.lock").touch()
    (directory / "appendonlydir").write_text("in the way")

    async def scenario() -> None:
        valkey = EmbeddedValkey(directory)
        try:
            with pytest.raises(StartError, match=r"(?s)^the embedded store does not start.*appendonlydir"):
                await valkey.start()
            assert store_processes(directory) == []
            (directory / "appendonlydir").unlink()
            await valkey.start()
            assert answers(valkey.url)
        finally:
            await valkey.stop()

    asyncio.run(scenario())


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for directory in (tmp_path / "file", tmp_path / "file" / "data"):
        with pytest.raises(StartError, match=rf"--data-dir {directory} cannot be written: "):
            asyncio.run(EmbeddedValkey(directory).start())


@pytest.mark.parametrize("run", [uvloop.run, asyncio.run], ids=["uvloop", "asyncio"])
def test_in_a_thread_of_its_own(tmp_path: Path, run: Callable[[Coroutine[None, None, None]], None]) -> None:
    """A program that embeds a server chooses its thread and event loop, where the store is restarted, too.

    The program may need SIGCHLD for itself.
    """
    failures: list[BaseException] = []
    started, may_go_on = threading.Event(), threading.Event()

    async def scenario() -> None:
        async with running(tmp_path) as (valkey, store):
            started.set()
            await asyncio.to_thread(may_go_on.wait, 60)
            first = process_id(valkey.url)
            send(signal.SIGKILL, first)
            await asyncio.to_thread(eventually, lambda: answers(valkey.url) and process_id(valkey.url) != first)
            await store.ping()

    def play() -> None:
        try:
            run(scenario())
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=play, daemon=True)
    thread.start()
    assert started.wait(60)
    before = signal.signal(signal.SIGCHLD, lambda *_: None)
    try:
        may_go_on.set()
        thread.join(timeout=60)
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert failures == []
    assert not thread.is_alive()
    assert store_processes(tmp_path) == []
