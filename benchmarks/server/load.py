"""Load on a bandit server from real worker clients in a process of their own, and the count of what became of it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import grpc

from benchmarks.server.players import RUN
from protos.optima.v1 import bandit_pb2 as pb
from protos.optima.v1.bandit_pb2_grpc import BanditStub

ROOT = Path(__file__).resolve().parents[2]
# What each worker has reported: arm and loss by round.
Told = Mapping[str, Mapping[int, tuple[str, float]]]


class Load:
    """Workers at play; leaving the block ends them.

    Args:
        address: The bandit server, or several of them, as gRPC writes it.
        directory: Where the workers' journals are; they outlive the load, and another one goes on with them.
        workers: How many.
        name: What their names begin with.
    """

    def __init__(self, address: str, directory: Path, workers: int = 4, name: str = "w") -> None:
        words = ["--workers", str(workers), "--name", name]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.server.players", address, str(directory), *words],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def go(self) -> None:
        """Play, until `pause`."""
        self._say("go")

    def pause(self) -> Told:
        """Return once everything is delivered: what the workers have reported since they began.

        Raises:
            TimeoutError: Reports are left that the server does not take.
        """
        assert self._process.stdout is not None
        self._say("pause")
        answer = json.loads(self._process.stdout.readline())
        if answer["undelivered"]:
            raise TimeoutError(f"{answer['undelivered']} reports could not be delivered")
        return {
            worker: {int(round): (arm, after) for round, (arm, after) in rounds.items()}
            for worker, rounds in answer["told"].items()
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _say(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()


class Observer:
    """One connection to a server, which finds it again when it is back."""

    def __init__(self, address: str) -> None:
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 20),
            ("grpc.min_reconnect_backoff_ms", 1000),
            ("grpc.max_reconnect_backoff_ms", 100),
        ]
        self._channel = grpc.insecure_channel(address, options=options)
        self._stub = BanditStub(self._channel)

    def version(self) -> int | None:
        """The run's version now; None if nobody says."""
        try:
            return self._stub.GetRun(pb.GetRunRequest(run=RUN), timeout=5).run.version
        except grpc.RpcError:
            return None

    def answers(self, seconds: float = 120.0) -> int:
        """The run's version as soon as somebody says.

        Raises:
            TimeoutError: Nobody does in time.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            version = self.version()
            if version is not None:
                return version
            time.sleep(0.01)
        raise TimeoutError(f"nobody answered within {seconds:g} s")

    def moves_on(self, seconds: float = 120.0) -> float:
        """Seconds until the server has answered and then stored something new.

        Raises:
            TimeoutError: It has not in time.
        """
        began = time.monotonic()
        # A store that has lost history has fewer than before.
        fewest = self.answers(seconds)
        while time.monotonic() - began < seconds:
            version = self.answers(seconds)
            if version > fewest:
                return time.monotonic() - began
            fewest = min(fewest, version)
            time.sleep(0.01)
        raise TimeoutError(f"nothing new was stored within {seconds:g} s")

    def events(self) -> list[pb.Event]:
        """The run's whole history."""
        events: list[pb.Event] = []
        watching = self._stub.WatchRun(pb.WatchRunRequest(run=RUN), timeout=60, wait_for_ready=True)
        for batch in watching:
            events.extend(batch.events)
            if batch.live:
                break
        watching.cancel()
        return events

    def close(self) -> None:
        """End the connection."""
        self._channel.close()


def count(told: Told, events: Sequence[pb.Event]) -> dict[str, Any]:
    """What became of the workers' reports: how many are `lost`, `doubled`, and stored with `other` numbers or another
    arm; and `numbers` of pulls that were given twice."""
    stored = [event.reward_reported for event in events if event.HasField("reward_reported")]
    times = Counter((report.pull.worker, report.pull.round) for report in stored)
    ours = {(worker, round): said for worker, rounds in told.items() for round, said in rounds.items()}
    found = {(r.pull.worker, r.pull.round): (r.pull.arm, r.measurement.after) for r in stored}
    numbers = Counter(report.pull.number for report in stored)
    return {
        "reports": len(ours),
        "by_the_worker": sum(report.pull.chosen_by == pb.CHOSEN_BY_FALLBACK for report in stored),
        "lost": len(ours.keys() - found.keys()),
        "doubled": sum(many - 1 for many in times.values()),
        "other": sum(found[key] != said for key, said in ours.items() if key in found),
        "numbers": sum(many - 1 for many in numbers.values()),
    }
