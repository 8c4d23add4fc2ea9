"""Latency and throughput of the bandit server: ``python -m benchmarks.server --json load.json``.

All calls use one Redis (`appendfsync everysec`) and alternate in turns, so that other load on the machine affects all
of them equally:

    empty       an empty unary call on the same gRPC stack
    bare        a select and a report that only append to Redis (benchmarks/server/bare_server.py)
    ours        a select and a report as a worker makes them: the report of a round and the next selection in one call
    ours_apart  the same in two calls, like the bare pair
    optuna      an ask and a tell through Optuna's gRPC proxy on its Journal-Redis storage, with its default sampler
                (TPE) after its ten random trials, and for one client also with the cheapest sampler (random)

with 1, 8 and 64 clients. It also measures a cold start among 1,000 runs of 1,000 events, a history of 100,000 events
next to a new one, 1 to 3 replicas, and 1,000 runs at once. Results are ratios of medians of neighbouring turns. The
exit status is 1 if a threshold is missed. ``--quick`` takes less than a minute.
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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.server import histories
from benchmarks.server.bare_server import STACKS
from benchmarks.server.clients import Workload
from benchmarks.server.cold_start import cold_start, idle_memory
from benchmarks.server.testbed import LOOPS, Process, Testbed, wait_until_ready
from benchmarks.server.thresholds import Threshold, check_thresholds, table

# The turns of a quick run by number of clients. With fewer clients a turn has fewer calls.
CLIENTS = {1: 8, 8: 4, 64: 3}
TURNS = 8
RUNS_AT_ONCE = 1000
LONG_ROUNDS = 50_000
PACKAGES = ("optima-distill", "grpcio", "redis", "optuna", "numpy", "uvloop")


@dataclass
class Turns:
    """The measurements of one kind of call with one number of clients, by turn.

    Attributes:
        p50: The median duration of a call in each turn, in seconds.
        p99: The 99th percentile in each turn, in seconds.
        rate: The calls per second in each turn.
        cpu: The server's processor time per call in each turn, in seconds.
        all: The duration of every call, in seconds.
    """

    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    all: list[float] = field(default_factory=list)

    def add(self, durations: Sequence[Sequence[float]], cpu: float) -> None:
        """Add a turn.

        Args:
            durations: The seconds of each client's calls, by client.
            cpu: The server's processor time for all of them, in seconds.
        """
        ordered = sorted(seconds for client in durations for seconds in client)
        self.p50.append(statistics.median(ordered))
        self.p99.append(ordered[int(0.99 * len(ordered))])
        # Per client, as its last call may end long after the turn.
        self.rate.append(sum(len(client) / sum(client) for client in durations))
        self.cpu.append(cpu / len(ordered))
        self.all += ordered

    def summary(self) -> dict[str, Any]:
        """Return the medians and the values of each turn, for JSON."""
        ordered = sorted(self.all)
        return {
            "p50_ms": 1e3 * statistics.median(self.p50),
            "p99_ms": 1e3 * ordered[int(0.99 * len(ordered))],
            "per_second": statistics.median(self.rate),
            "server_cpu_us": 1e6 * statistics.median(self.cpu),
            "turns": {
                "p50_ms": [1e3 * value for value in self.p50],
                "p99_ms": [1e3 * value for value in self.p99],
                "per_second": self.rate,
            },
        }


class Measurement:
    """Measures turns of clients on a testbed."""

    def __init__(self, testbed: Testbed, seconds: float) -> None:
        self._testbed = testbed
        self._seconds = seconds

    def side_by_side(
        self, kinds: Mapping[str, tuple[str, Sequence[Process], list[list[str]]]], turns: int
    ) -> dict[str, Turns]:
        """Measure several kinds of calls in alternating turns, after one turn of warm-up.

        Args:
            kinds: By name: the kind of call, its servers, and the runs of every client.
            turns: The number of turns.
        """
        measured = {name: Turns() for name in kinds}
        for turn in range(turns + 1):
            for name, (kind, servers, runs) in kinds.items():
                workload = Workload(kind, [server.address for server in servers], runs, self._seconds if turn else 0.0)
                before = sum(server.cpu for server in servers)
                durations = self._testbed.play(workload, len(runs))
                cpu = sum(server.cpu for server in servers) - before
                if turn:
                    measured[name].add(durations, cpu)
        return measured


def measure(testbed: Testbed, quick: bool) -> dict[str, Any]:
    """Measure everything and return the results, for JSON."""
    measurement = Measurement(testbed, seconds=0.3 if quick else 1.0)
    began = time.perf_counter()
    bare, proxy = testbed.start_bare_server("asyncio"), testbed.start_optuna_proxy()
    replicas = [testbed.start_server() for _ in range(3)]
    for server in replicas:
        wait_until_ready(server)
    ours = replicas[0]
    results: dict[str, Any] = {"cold_start": (cold := cold_start(testbed)).results}
    _print_progress(began, "a cold start")
    # Before the others have played many runs: the server takes their snapshots at any time, in some turns only.
    results["history"] = _history(testbed, ours, measurement, turns=10 if quick else 20)
    _print_progress(began, "a history of 100,000 events")
    wait_until_ready(proxy, health=False)
    results["stacks"] = {} if quick else _stacks(testbed, measurement)
    results["clients"] = {}
    on = {"empty": bare, "bare": bare, "ours": ours, "optuna": proxy}
    if not quick:
        on |= {"optuna_random": proxy, "ours_apart": ours}
    for clients, quick_turns in CLIENTS.items():
        kinds = {kind: (kind, [server], _runs(f"{kind}-{clients}", clients)) for kind, server in on.items()}
        if clients > 1:
            # With more clients the server is the bottleneck, whatever the sampler.
            kinds.pop("optuna_random", None)
        results["clients"][clients] = _summaries(measurement.side_by_side(kinds, quick_turns if quick else TURNS))
        _print_progress(began, f"{clients} clients")
    few = 1 if quick else 2
    results["replicas"] = {}
    for count in (1, 2, 3):
        kinds = {"ours": ("ours", replicas[:count], _runs(f"r{count}", 64))}
        results["replicas"][count] = _summaries(measurement.side_by_side(kinds, few))["ours"]
    _print_progress(began, "replicas")
    spread = [[f"many-{number}" for number in range(at, RUNS_AT_ONCE, 64)] for at in range(64)]
    results["runs_at_once"] = _summaries(measurement.side_by_side({"ours": ("ours", [ours], spread)}, few))["ours"]
    _print_progress(began, f"{RUNS_AT_ONCE} runs at once")
    results["memory"] = idle_memory(cold)
    stream_bytes = int(testbed.redis.memory_usage("optima:{long}:events", samples=0) or 0)
    results["redis_bytes_per_event"] = stream_bytes / (2 * LONG_ROUNDS)
    results["seconds"] = time.perf_counter() - began
    return results


def _stacks(testbed: Testbed, measurement: Measurement) -> dict[str, Any]:
    on = {
        f"{kind} on {stack}": (kind, testbed.start_bare_server(stack)) for stack in STACKS for kind in ("empty", "bare")
    }
    for loop in LOOPS:
        on[f"ours on {loop}"] = ("ours", testbed.start_server(loop=loop))
        wait_until_ready(on[f"ours on {loop}"][1])
    kinds = {name: (kind, [to], _runs(name.replace(" ", "-"), 8)) for name, (kind, to) in on.items()}
    return _summaries(measurement.side_by_side(kinds, TURNS))


def _history(testbed: Testbed, ours: Process, measurement: Measurement, turns: int) -> dict[str, Any]:
    # `c0-0` is the first client of the first process.
    histories.write(testbed.redis, "long", LONG_ROUNDS, "c0-0")
    testbed.play(Workload("ours", [ours.address], [["long"]], 0.0, LONG_ROUNDS), 1)
    kinds = {"fresh": ("ours", [ours], [["short"]]), "long": ("ours", [ours], [["long"]])}
    return _summaries(measurement.side_by_side(kinds, turns=turns))


def _runs(name: str, clients: int) -> list[list[str]]:
    return [[f"{name}-{number}"] for number in range(clients)]


def _summaries(measured: dict[str, Turns]) -> dict[str, Any]:
    return {name: turns.summary() for name, turns in measured.items()}


def _print_progress(began: float, what: str) -> None:
    print(f"[{time.perf_counter() - began:.0f} s] {what}", file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    description = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.server", description=description)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number to this file")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter turns: less than a minute")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="optima-load-") as directory, Testbed(Path(directory)) as testbed:
        results = measure(testbed, arguments.quick)
    thresholds: list[Threshold] = check_thresholds(results)
    print(table(results, thresholds))
    if arguments.json:
        content = {
            "command": shlex.join(["python", "-m", "benchmarks.server", *(argv or sys.argv[1:])]),
            "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
            "machine": platform.platform(),
            "cpus": os.cpu_count(),
            "bars": [threshold._asdict() for threshold in thresholds],
            **results,
        }
        arguments.json.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    missed = [threshold.what for threshold in thresholds if not threshold.met]
    if missed:
        sys.exit("missed: " + "; ".join(missed))


if __name__ == "__main__":
    main()
