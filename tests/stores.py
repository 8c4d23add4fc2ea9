"""Real stores for tests: a redis-server process, and ways to inspect a store from outside."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import redis

from tests.server_process import eventually


class RedisServer:
    """A `redis-server` process with an append-only file, on a unix socket, which tests kill, freeze and restart.

    Args:
        directory: For its data; created if it does not exist.
        fsync: `everysec` or `always`: when an append is flushed to the disk.
        options: Further ones, as in redis.conf.
    """

    def __init__(self, directory: Path, fsync: str = "always", **options: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._options = {"appendfsync": fsync, **options}
        # A socket's path must be short, and a test's directory need not be.
        self._socket_directory = Path(tempfile.mkdtemp(prefix="redis-"))
        self._socket = self._socket_directory / "redis.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL at which it listens."""
        return f"unix://{self._socket}"

    def start(self) -> None:
        """Start it, and return once it answers."""
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "dir": str(self.directory),
            "daemonize": "no",
            "save": "",
            "appendonly": "yes",
            **self._options,
        }
        arguments = [argument for name, value in options.items() for argument in (f"--{name}", value)]
        with (self.directory / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(["redis-server", *arguments], stdout=log, stderr=log)
        eventually(lambda: answers(self.url), seconds=30)

    def own_all_slots(self) -> None:
        """Make it a cluster of one node; it must run in cluster mode."""
        with connected(self.url) as client:
            execute: Callable[..., bytes] = client.execute_command
            execute("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
            eventually(lambda: b"cluster_state:ok" in execute("CLUSTER", "INFO"))

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self.wait()

    def freeze(self) -> None:
        """Stop its process: connections stay open, and answers do not come."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Continue its process."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def wait(self) -> None:
        """Wait until it has ended."""
        assert self._process is not None
        self._process.wait(timeout=10)

    def stop(self) -> None:
        """End it in whatever state it is, and remove its socket."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        shutil.rmtree(self._socket_directory, ignore_errors=True)


@contextlib.contextmanager
def redis_server(directory: Path) -> Iterator[str]:
    """Run a redis-server with its data in a directory; yield its URL."""
    server = RedisServer(directory)
    try:
        server.start()
        yield server.url
    finally:
        server.stop()


async def soon(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for a condition, as `eventually` (server_process.py), while the event loop runs."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        await asyncio.sleep(0.005)


def answers(url: str) -> bool:
    """Return whether a store answers there."""
    with contextlib.suppress(redis.RedisError), connected(url) as client:
        return bool(client.ping())
    return False


@contextlib.contextmanager
def connected(url: str) -> Iterator[redis.Redis]:
    """Open a connection to a store that does not use our code."""
    client = redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5)
    try:
        yield client
    finally:
        client.close()


def process_id(url: str) -> int:
    """Return the id of the process that answers there."""
    with connected(url) as client:
        return int(client.info("server")["process_id"])


def store_processes(directory: Path) -> list[psutil.Process]:
    """Return the embedded stores on a data directory: they hold one of its locks, their server both."""
    processes = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            files = {file.path for file in process.open_files()}
            if str(directory / "store.lock") in files and str(directory / "server.lock") not in files:
                processes.append(process)
    return processes


def send(number: signal.Signals, pid: int) -> None:
    """Send a signal to a process."""
    os.kill(pid, number)
