"""`optima serve` as a process of its own, for tests that kill it."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import grpc
import psutil

from protos.optima.v1 import bandit_pb2 as pb
from protos.optima.v1.bandit_pb2_grpc import BanditStub
from tests.calls import history
from tests.launch import ROOT, free_port


class ServerProcess:
    """`optima serve` on a port of its own; to be killed, frozen and started again.

    Args:
        data: Where the embedded store keeps its file.
        redis_url: The store, if it is to be another one.
        token_file: The token it is to ask for.
        flags: Further flags of `optima serve`.
        dashboard: Whether it has one.
    """

    def __init__(
        self,
        data: Path,
        redis_url: str | None = None,
        token_file: Path | None = None,
        flags: Sequence[str] = (),
        dashboard: bool = False,
    ) -> None:
        self.data = data
        self.address = f"127.0.0.1:{free_port()}"
        self._redis_url = redis_url
        self.flags = [*flags, *(["--token-file", str(token_file)] if token_file else [])]
        self.dashboard_port = free_port()
        self.flags += ["--dashboard-port", str(self.dashboard_port)] if dashboard else ["--no-dashboard"]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start, and wait until it answers."""
        port = self.address.rpartition(":")[2]
        command = [sys.executable, "-m", "bandit_server.cli", "serve", "--port", port, "--data-dir", str(self.data)]
        command += ["--redis-url", self._redis_url] if self._redis_url else []
        with (self.data.parent / "server.log").open("ab") as log:
            self._process = subprocess.Popen([*command, *self.flags], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=log)
        with self.stub() as stub:
            eventually(lambda: answers(stub), seconds=60)

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """Kill it as the kernel would, its store with it."""
        for process in self._tree():
            # A child ends with its parent, maybe before its own turn.
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._wait()

    def restart(self) -> None:
        """Kill it and start it again."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        """Stop it in its tracks: connections stay, answers do not come."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def store(self) -> psutil.Process:
        """The embedded store's process."""
        return next(p for p in self._tree() if "valkey" in p.name() or "redis" in p.name())

    def lose_everything(self) -> None:
        """Kill it, and start it again on an empty disk."""
        self.kill()
        shutil.rmtree(self.data)
        self.start()

    @contextlib.contextmanager
    def stub(self) -> Iterator[BanditStub]:
        """A client that sees what an operator sees."""
        with grpc.insecure_channel(self.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            yield BanditStub(channel)

    def run(self, name: str = "r") -> pb.RunSummary:
        """The run as it stands."""
        with self.stub() as stub:
            return stub.GetRun(pb.GetRunRequest(run=name), timeout=10, wait_for_ready=True).run

    def names(self) -> list[str]:
        """The runs that there are."""
        with self.stub() as stub:
            return [run.run for run in stub.ListRuns(pb.ListRunsRequest(), timeout=10, wait_for_ready=True).runs]

    def reports(self, name: str = "r") -> list[pb.RewardReported]:
        """All reports of the run's history, in order."""
        return reports_of(self.address, name)

    def events(self, name: str = "r") -> list[pb.Event]:
        """The run's history."""
        return events_of(self.address, name)

    def _tree(self) -> list[psutil.Process]:
        assert self._process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self._process.pid)
            return [process, *process.children(recursive=True)]
        return []

    def _wait(self) -> None:
        assert self._process is not None
        self._process.wait(10)


def events_of(address: str, name: str) -> list[pb.Event]:
    """The history of a run on the server at the address."""
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        return history(BanditStub(channel), name)


def reports_of(address: str, name: str) -> list[pb.RewardReported]:
    """All reports of a run's history on the server at the address, in order."""
    return [event.reward_reported for event in events_of(address, name) if event.HasField("reward_reported")]


def answers(stub: BanditStub) -> bool:
    try:
        stub.ListRuns(pb.ListRunsRequest(page_size=1), timeout=1)
    except grpc.RpcError as error:
        # One that asks who calls is there.
        return cast(grpc.Call, error).code() == grpc.StatusCode.UNAUTHENTICATED
    return True


def eventually(condition: Callable[[], object], seconds: float = 15) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        threading.Event().wait(0.02)
