"""What the bandit server takes, and how much: ``python -m benchmarks.server --json load.json``.

On one Redis (`appendfsync everysec`) and in one run, turn by turn, so that what else the machine does falls on all:

    empty    an empty unary call on the same gRPC stack
    bare     a select and a report that only append to Redis (benchmarks/server/bare_server.py)
    ours     a select and a report, as a worker makes them: a round's report and the next one's selection in one call
    ours_apart  the same in two calls, as the bare pair
    optuna   an ask and a tell through Optuna's gRPC proxy on its Journal-Redis storage, with the sampler that it
             chooses if nobody does (TPE), past its ten trials at random, and for one client with the cheapest (random)

with 1, 8 and 64 clients; then 1 to 3 replicas and 1,000 runs at once; before them a cold start among 1,000 runs of
1,000 events, and a history of 100,000 events beside a fresh one. Times are told as ratios of medians of turns that
follow each other. The exit status is 1 if a bar is missed. ``--quick`` takes less than a minute.
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
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.server import histories
from benchmarks.server.bare_server import STACKS
from benchmarks.server.clients import Window
from benchmarks.server.cold_start import cold_start, idle_memory
from benchmarks.server.site import LOOPS, Process, Site, ready
from benchmarks.server.thresholds import Bar, bars, table

# By how many clients there are: the turns of a quick run. With fewer clients a turn has fewer calls.
CLIENTS = {1: 8, 8: 4, 64: 3}
TURNS = 8
RUNS_AT_ONCE = 1000
LONG_ROUNDS = 50_000
PACKAGES = ("optima-distill", "grpcio", "redis", "optuna", "numpy", "uvloop")


@dataclass
class Turns:
    """What one kind of call took with so many clients, turn by turn.

    Attributes:
        p50, p99: Seconds, of each turn.
        rate: Calls per second, of each turn.
        cpu: Seconds of the server's processor time per call, of each turn.
        all: Seconds of every call.
    """

    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    all: list[float] = field(default_factory=list)

    def add(self, taken: Sequence[Sequence[float]], cpu: float) -> None:
        """One more turn: what each client's calls took, one after the other, and the server for all of them."""
        ordered = sorted(seconds for some in taken for seconds in some)
        self.p50.append(statistics.median(ordered))
        self.p99.append(ordered[int(0.99 * len(ordered))])
        # The last call of a client may end long after the turn's time.
        self.rate.append(sum(len(some) / sum(some) for some in taken))
        self.cpu.append(cpu / len(ordered))
        self.all += ordered

    def told(self) -> dict[str, Any]:
        """For JSON: the medians, and each turn."""
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


class Measuring:
    """Turns of clients at a site."""

    def __init__(self, site: Site, seconds: float) -> None:
        self._site = site
        self._seconds = seconds

    def side_by_side(
        self, kinds: dict[str, tuple[str, Sequence[Process], list[list[str]]]], turns: int
    ) -> dict[str, Turns]:
        """By name: what a kind of call at some servers took, a list of runs for every client; one turn each first."""
        found = {name: Turns() for name in kinds}
        for turn in range(turns + 1):
            for name, (kind, servers, runs) in kinds.items():
                window = Window(kind, [server.address for server in servers], runs, self._seconds if turn else 0.0)
                before = sum(server.cpu for server in servers)
                taken = self._site.play(window, len(runs))
                cpu = sum(server.cpu for server in servers) - before
                if turn:
                    found[name].add(taken, cpu)
        return found


def measure(site: Site, quick: bool) -> dict[str, Any]:
    """Everything."""
    measuring = Measuring(site, seconds=0.3 if quick else 1.0)
    began = time.perf_counter()
    bare, proxy = site.bare("asyncio"), site.optuna()
    replicas = [site.ours() for _ in range(3)]
    for server in replicas:
        ready(server)
    ours = replicas[0]
    found: dict[str, Any] = {"cold_start": (cold := cold_start(site)).told}
    _say(began, "a cold start")
    # Before the others have played many runs, whose snapshots a server takes in its time, now in a turn, now not.
    found["history"] = _history(site, ours, measuring, turns=10 if quick else 20)
    _say(began, "a history of 100,000 events")
    ready(proxy, health=False)
    found["stacks"] = {} if quick else _stacks(site, measuring)
    found["clients"] = {}
    on = {"empty": bare, "bare": bare, "ours": ours, "optuna": proxy}
    if not quick:
        on |= {"optuna_random": proxy, "ours_apart": ours}
    for clients, quick_turns in CLIENTS.items():
        kinds = {kind: (kind, [server], _runs(f"{kind}-{clients}", clients)) for kind, server in on.items()}
        if clients > 1:
            # Its server is what they wait for then, whatever the sampler.
            kinds.pop("optuna_random", None)
        found["clients"][clients] = _told(measuring.side_by_side(kinds, quick_turns if quick else TURNS))
        _say(began, f"{clients} clients")
    few = 1 if quick else 2
    found["replicas"] = {}
    for count in (1, 2, 3):
        kinds = {"ours": ("ours", replicas[:count], _runs(f"r{count}", 64))}
        found["replicas"][count] = _told(measuring.side_by_side(kinds, few))["ours"]
    _say(began, "replicas")
    spread = [[f"many-{number}" for number in range(at, RUNS_AT_ONCE, 64)] for at in range(64)]
    found["runs_at_once"] = _told(measuring.side_by_side({"ours": ("ours", [ours], spread)}, few))["ours"]
    _say(began, f"{RUNS_AT_ONCE} runs at once")
    found["memory"] = idle_memory(cold)
    found["redis_bytes_per_event"] = site.redis.memory_usage("optima:{long}:events", samples=0) / (2 * LONG_ROUNDS)
    found["seconds"] = time.perf_counter() - began
    return found


def _stacks(site: Site, measuring: Measuring) -> dict[str, Any]:
    on = {f"{kind} on {stack}": (kind, site.bare(stack)) for stack in STACKS for kind in ("empty", "bare")}
    for loop in LOOPS:
        on[f"ours on {loop}"] = ("ours", site.ours(loop=loop))
        ready(on[f"ours on {loop}"][1])
    kinds = {name: (kind, [to], _runs(name.replace(" ", "-"), 8)) for name, (kind, to) in on.items()}
    return _told(measuring.side_by_side(kinds, TURNS))


def _history(site: Site, ours: Process, measuring: Measuring, turns: int) -> dict[str, Any]:
    # The worker is the first client of the first process.
    histories.write(site.redis, "long", LONG_ROUNDS, "c0-0")
    site.play(Window("ours", [ours.address], [["long"]], 0.0, LONG_ROUNDS), 1)
    kinds = {"fresh": ("ours", [ours], [["short"]]), "long": ("ours", [ours], [["long"]])}
    return _told(measuring.side_by_side(kinds, turns=turns))


def _runs(name: str, clients: int) -> list[list[str]]:
    return [[f"{name}-{number}"] for number in range(clients)]


def _told(found: dict[str, Turns]) -> dict[str, Any]:
    return {name: turns.told() for name, turns in found.items()}


def _say(began: float, what: str) -> None:
    print(f"[{time.perf_counter() - began:.0f} s] {what}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    description = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.server", description=description)
    parser.add_argument("--json", type=Path, metavar="FILE", help="where every number is written")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter turns: less than a minute")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="optima-load-") as directory, Site(Path(directory)) as site:
        found = measure(site, asked.quick)
    judged: list[Bar] = bars(found)
    print(table(found, judged))
    if asked.json:
        told = {
            "command": shlex.join(["python", "-m", "benchmarks.server", *(arguments or sys.argv[1:])]),
            "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
            "machine": platform.platform(),
            "cpus": os.cpu_count(),
            "bars": [bar._asdict() for bar in judged],
            **found,
        }
        asked.json.write_text(json.dumps(told, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    missed = [bar.what for bar in judged if not bar.met]
    if missed:
        sys.exit("missed: " + "; ".join(missed))


if __name__ == "__main__":
    main()
