"""Load on a bandit server from real worker clients in a process of their own, and a check of what was stored."""

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

from benchmarks.server.load_workers import RUN
from protos.optima.v1 import bandit_pb2 as pb
from protos.optima.v1.bandit_pb2_grpc import BanditStub

ROOT = Path(__file__).resolve().parents[2]
# The arm and loss that each worker reported, by worker and round.
Reports = Mapping[str, Mapping[int, tuple[str, float]]]


class Load:
    """Worker clients; leaving the context ends them.

    Args:
        address: The bandit server, or several of them, as a gRPC target.
        directory: The directory of the workers' journals. They outlive the load, and a later load continues them.
        workers: The number of workers.
        name: The prefix of their names.
    """

    def __init__(self, address: str, directory: Path, workers: int = 4, name: str = "w") -> None:
        arguments = ["--workers", str(workers), "--name", name]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.server.load_workers", address, str(directory), *arguments],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def go(self) -> None:
        """Play until `pause`."""
        self._send("go")

    def pause(self) -> Reports:
        """Stop playing, deliver everything, and return all reports since the start.

        Raises:
            TimeoutError: The server does not accept some of the reports.
        """
        assert self._process.stdout is not None
        self._send("pause")
        response = json.loads(self._process.stdout.readline())
        if response["undelivered"]:
            raise TimeoutError(f"{response['undelivered']} reports could not be delivered")
        return {
            worker: {int(round): (arm, after) for round, (arm, after) in rounds.items()}
            for worker, rounds in response["reports"].items()
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        # Leaving its context waits, and closes the pipes.
        with self._process:
            self._process.stdin.close()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()

    def _send(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()


class Observer:
    """A connection to a server that reconnects quickly after an outage."""

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
        """Return the run's version; None if the server does not respond."""
        try:
            return self._stub.GetRun(pb.GetRunRequest(run=RUN), timeout=5).run.version
        except grpc.RpcError:
            return None

    def wait_for_answer(self, seconds: float = 120.0) -> int:
        """Wait until the server responds, and return the run's version.

        Raises:
            TimeoutError: The server does not respond in time.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            version = self.version()
            if version is not None:
                return version
            time.sleep(0.01)
        raise TimeoutError(f"the server did not respond within {seconds:g} s")

    def wait_for_progress(self, seconds: float = 120.0) -> float:
        """Wait until the server has stored a new event, and return the seconds it took.

        Raises:
            TimeoutError: Nothing new is stored in time.
        """
        began = time.monotonic()
        # A store that has lost history has a lower version than before.
        lowest = self.wait_for_answer(seconds)
        while time.monotonic() - began < seconds:
            version = self.wait_for_answer(seconds)
            if version > lowest:
                return time.monotonic() - began
            lowest = min(lowest, version)
            time.sleep(0.01)
        raise TimeoutError(f"nothing new was stored within {seconds:g} s")

    def events(self) -> list[pb.Event]:
        """Return the run's whole history."""
        events: list[pb.Event] = []
        watching = self._stub.WatchRun(pb.WatchRunRequest(run=RUN), timeout=60, wait_for_ready=True)
        for batch in watching:
            events.extend(batch.events)
            if batch.live:
                break
        watching.cancel()
        return events

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()


def count_outcomes(reports: Reports, events: Sequence[pb.Event]) -> dict[str, Any]:
    """Compare the workers' reports with the stored history.

    Returns:
        The number of reports; how many were `by_the_worker` (of arms that it chose by itself), `lost`, `doubled`, or
        stored with `other` values; and the `numbers` of pulls that were used twice.
    """
    stored = [event.reward_reported for event in events if event.HasField("reward_reported")]
    times = Counter((report.pull.worker, report.pull.round) for report in stored)
    reported = {(worker, round): values for worker, rounds in reports.items() for round, values in rounds.items()}
    stored_values = {(r.pull.worker, r.pull.round): (r.pull.arm, r.measurement.after) for r in stored}
    numbers = Counter(report.pull.number for report in stored)
    return {
        "reports": len(reported),
        "by_the_worker": sum(report.pull.chosen_by == pb.CHOSEN_BY_FALLBACK for report in stored),
        "lost": len(reported.keys() - stored_values.keys()),
        "doubled": sum(many - 1 for many in times.values()),
        "other": sum(stored_values[key] != values for key, values in reported.items() if key in stored_values),
        "numbers": sum(many - 1 for many in numbers.values()),
    }
