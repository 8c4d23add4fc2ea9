"""The resources that many workers need: ``python -m benchmarks.server.scale_model --json scale.json``.

It measures, with 200 workers that only make calls (virtual_workers.py), the processor time that the server and Redis
take for a round (its report and the next selection in one call), for a heartbeat and while idle, and the bytes that
Redis stores. From these it computes what more workers need (scale.py). Then it checks the computation: it measures what
server and Redis use for 1,000 such workers at a realistic pace, next to what was predicted. docs/scale.md has results.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.server.scale import Costs, Work, Workers, calls, needs
from benchmarks.server.testbed import Process, Testbed, wait_until_ready
from worker.client.sender import HEARTBEAT_SECONDS

# The reported cases: seconds of a round, stored rounds of each worker, and (workers, runs).
ROUND_SECONDS, ROUNDS = 30.0, 1000
CASES = ((1_000, 100), (100_000, 10_000))
# For the measurement of the costs: the number of workers, the workers in a run (in the check too), the seconds of a
# round, and the duration of each measurement in seconds.
COST_WORKERS, WORKERS_PER_RUN, COST_ROUND_SECONDS, COST_SECONDS = 200, 10, 2.0, 12.0
# The server stores the snapshot of a run within this time after its last call.
RESTING_SECONDS = 4.0


@dataclass
class Observation:
    """The calls of virtual workers and the work that they caused, per second.

    Attributes:
        rounds: Rounds per second.
        heartbeats: Heartbeats per second.
        failed: The number of failed calls.
        used: The processor time of server and Redis per second.
        taken: The seconds of each round's call, ascending.
    """

    rounds: float
    heartbeats: float
    failed: int
    used: Work
    taken: list[float]


class Meter:
    """Measures the processor time of a testbed's server and Redis."""

    def __init__(self, testbed: Testbed, server: Process) -> None:
        self._testbed = testbed
        self._server = server

    def used(self) -> Work:
        """Return the processor time used so far."""
        return Work(self._server.cpu, self._testbed.redis_process.cpu)

    def idle(self, seconds: float) -> Work:
        """Measure the work per second without calls."""
        before = self.used()
        time.sleep(seconds)
        return (self.used() + before * -1.0) * (1 / seconds)

    def watch(self, run: str, workers: int, pace: float, seconds: float) -> Observation:
        """Measure virtual workers in two processes, with a round every `pace` seconds; no rounds if it is 0."""
        options = ["--workers", str(workers // 2), "--run", run, "--runs", str(workers // WORKERS_PER_RUN),
                   "--pace", str(pace), "--seconds", str(seconds)]  # fmt: skip
        processes = [
            self._testbed.start_module(
                "benchmarks.server.virtual_workers", self._server.address, "--name", f"v{at}", *options
            )
            for at in range(2)
        ]
        for process in processes:
            process.read_line()
        # Until their calls are spread evenly over time.
        time.sleep(max(pace, HEARTBEAT_SECONDS))
        before, began = self.used(), time.perf_counter()
        for process in processes:
            process.write_line("go\n")
        counts = [json.loads(process.read_line()) for process in processes]
        used = (self.used() + before * -1.0) * (1 / (time.perf_counter() - began))
        for process in processes:
            process.stop()
        return Observation(
            rounds=sum(each["rounds"] for each in counts) / seconds,
            heartbeats=sum(each["heartbeats"] for each in counts) / seconds,
            failed=sum(each["failed"] for each in counts),
            used=used,
            taken=sorted(taken for each in counts for taken in each["taken"]),
        )

    def costs(self) -> Costs:
        """Measure the costs with a few workers."""
        idle = self.idle(COST_SECONDS / 2)
        beating = self.watch("heartbeats", COST_WORKERS, 0.0, COST_SECONDS)
        heartbeat = (beating.used + idle * -1.0) * (1 / beating.heartbeats)
        playing = self.watch("plays", COST_WORKERS, COST_ROUND_SECONDS, COST_SECONDS)
        rest = playing.used + (idle + heartbeat * playing.heartbeats) * -1.0
        time.sleep(RESTING_SECONDS)
        events, stream_bytes, snapshot_bytes = [], [], []
        for number in range(COST_WORKERS // WORKERS_PER_RUN):
            key = f"optima:{{plays-{number}}}"
            events.append(int(self._testbed.redis.xlen(f"{key}:events")))
            stream_bytes.append(int(self._testbed.redis.memory_usage(f"{key}:events", samples=0) or 0))
            snapshot_bytes.append(int(self._testbed.redis.memory_usage(f"{key}:snapshot") or 0))
        return Costs(
            idle,
            rest * (1 / playing.rounds),
            heartbeat,
            2 * sum(stream_bytes) / sum(events),
            statistics.fmean(snapshot_bytes),
        )


def check(meter: Meter, costs: Costs, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure many workers, and return the measurements next to the predictions, for JSON."""
    observation = meter.watch("many", arguments.workers, arguments.pace, arguments.seconds)
    workers = Workers(
        arguments.workers, arguments.workers // WORKERS_PER_RUN, arguments.pace, HEARTBEAT_SECONDS, ROUNDS
    )
    return {
        "workers": workers.count,
        "runs": workers.runs,
        "round_seconds": arguments.pace,
        "seconds": arguments.seconds,
        "rounds_per_second": observation.rounds,
        "foreseen_rounds_per_second": workers.rounds_per_second,
        "heartbeats_per_second": observation.heartbeats,
        "foreseen_heartbeats_per_second": workers.heartbeats_per_second,
        "failed": observation.failed,
        "p50_ms": 1e3 * statistics.median(observation.taken),
        "p99_ms": 1e3 * observation.taken[int(0.99 * len(observation.taken))],
        "cores": asdict(observation.used),
        "foreseen_cores": asdict(calls(costs, workers) + costs.idle),
    }


def table(costs: Costs, needed: Sequence[dict[str, float]], checked: dict[str, Any]) -> str:
    """Return costs, needs and check as text."""
    lines = [f"{'processor time, µs':24} {'server':>8} {'Redis':>8}"]
    for name, work in (("a round", costs.round), ("a heartbeat", costs.heartbeat), ("an idle second", costs.idle)):
        lines.append(f"{name:24} {1e6 * work.server:8.0f} {1e6 * work.redis:8.0f}")
    lines += [
        f"Redis stores {costs.round_bytes:.0f} bytes for a round, and {costs.run_bytes:.0f} for a run besides",
        "",
    ]
    for case in needed:
        lines.append(
            f"{case['workers']:.0f} workers in {case['runs']:.0f} runs: {case['rounds_per_second']:.0f} rounds and "
            f"{case['heartbeats_per_second']:.0f} heartbeats a second: {case['replicas']:.0f} replicas "
            f"({case['server_cores']:.2f} cores); Redis {case['redis_cores']:.2f} cores, {case['redis_gb']:.1f} GB"
        )
    used, predicted = checked["cores"], checked["foreseen_cores"]
    lines += [
        "",
        f"{checked['workers']} virtual workers in {checked['runs']} runs, a round every {checked['round_seconds']:g} s",
        f"{'':24} {'predicted':>9} {'measured':>9}",
        f"{'rounds a second':24} {checked['foreseen_rounds_per_second']:9.1f} {checked['rounds_per_second']:9.1f}",
        f"{'heartbeats a second':24} {checked['foreseen_heartbeats_per_second']:9.1f} "
        f"{checked['heartbeats_per_second']:9.1f}",
        f"{'cores of the server':24} {predicted['server']:9.2f} {used['server']:9.2f}",
        f"{'cores of Redis':24} {predicted['redis']:9.2f} {used['redis']:9.2f}",
        f"{checked['failed']} calls failed; a round's call: p50 {checked['p50_ms']:.1f} ms, "
        f"p99 {checked['p99_ms']:.1f} ms",
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.server.scale_model", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number to this file")
    parser.add_argument("--workers", type=int, default=1000, help="virtual workers of the check (default: 1000)")
    parser.add_argument("--pace", type=float, default=20.0, help="seconds of their rounds (default: 20)")
    parser.add_argument("--seconds", type=float, default=30.0, help="duration of the check (default: 30)")
    arguments = parser.parse_args(argv)
    with (
        tempfile.TemporaryDirectory(prefix="optima-scale-") as directory,
        Testbed(Path(directory), client_processes=0) as testbed,
    ):
        server = testbed.start_server()
        wait_until_ready(server)
        meter = Meter(testbed, server)
        costs = meter.costs()
        checked = check(meter, costs, arguments)
    needed = [needs(costs, Workers(count, runs, ROUND_SECONDS, HEARTBEAT_SECONDS, ROUNDS)) for count, runs in CASES]
    print(table(costs, needed, checked))
    if arguments.json:
        content = {
            "command": shlex.join(["python", "-m", "benchmarks.server.scale_model", *(argv or sys.argv[1:])]),
            "machine": platform.platform(),
            "cpus": os.cpu_count(),
            "costs": asdict(costs),
            "needs": needed,
            "checked": checked,
        }
        arguments.json.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if checked["failed"]:
        sys.exit(f"{checked['failed']} calls failed")


if __name__ == "__main__":
    main()
