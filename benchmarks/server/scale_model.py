"""What many workers need: ``python -m benchmarks.server.scale_model --json scale.json``. See docs/scale.md.

Measured on this machine: the processor time that the server and Redis take for a round (its report and the next one's
selection, one call), for a heartbeat, and when nobody calls; and the bytes that Redis keeps; with 200 workers that do
nothing but call (virtual_workers.py). From these follows what so many workers need (scale.py).
Then that is checked: 1,000 such workers, at a worker's pace; what server and Redis use meanwhile, beside what was
foreseen.
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
from benchmarks.server.site import Process, Site, ready
from worker.client.sender import HEARTBEAT_SECONDS

# Of the cases that are told: seconds of a round, and rounds of each worker that Redis keeps.
ROUND_SECONDS, ROUNDS = 30.0, 1000
CASES = ((1_000, 100), (100_000, 10_000))
# What is measured first, for the costs: so many workers, so many of them in a run, in the check too; the seconds of
# their rounds where rounds are measured, and how long they are watched.
FEW, TOGETHER, QUICK_ROUNDS, SECONDS = 200, 10, 2.0, 12.0
# A snapshot is taken of a run that rests.
RESTING_SECONDS = 4.0


@dataclass
class Seen:
    """What virtual workers did, and what was used for it, each second.

    Attributes:
        used: By the server and Redis.
        taken: Seconds of each round's call, ascending.
    """

    rounds: float
    heartbeats: float
    failed: int
    used: Work
    taken: list[float]


class Measuring:
    """What a site's server and its Redis use."""

    def __init__(self, site: Site, server: Process) -> None:
        self._site = site
        self._server = server

    def used(self) -> Work:
        """So far."""
        return Work(self._server.cpu, self._site.redis_process.cpu)

    def idle(self, seconds: float) -> Work:
        """In a second in which nobody calls."""
        before = self.used()
        time.sleep(seconds)
        return (self.used() + before * -1.0) * (1 / seconds)

    def watch(self, run: str, workers: int, pace: float, seconds: float) -> Seen:
        """So many workers, in two processes; a round every `pace` seconds, or none."""
        words = ["--workers", str(workers // 2), "--run", run, "--runs", str(workers // TOGETHER), "--pace", str(pace),
                 "--seconds", str(seconds)]  # fmt: skip
        processes = [
            self._site.python("benchmarks.server.virtual_workers", self._server.address, "--name", f"v{at}", *words)
            for at in range(2)
        ]
        for process in processes:
            process.line()
        # Until they are spread over the time as they will be.
        time.sleep(max(pace, HEARTBEAT_SECONDS))
        before, began = self.used(), time.perf_counter()
        for process in processes:
            process.say("go\n")
        told = [json.loads(process.line()) for process in processes]
        used = (self.used() + before * -1.0) * (1 / (time.perf_counter() - began))
        for process in processes:
            process.stop()
        return Seen(
            rounds=sum(some["rounds"] for some in told) / seconds,
            heartbeats=sum(some["heartbeats"] for some in told) / seconds,
            failed=sum(some["failed"] for some in told),
            used=used,
            taken=sorted(taken for some in told for taken in some["taken"]),
        )

    def costs(self) -> Costs:
        """Everything that the model wants to know, from a few workers."""
        idle = self.idle(SECONDS / 2)
        beating = self.watch("beats", FEW, 0.0, SECONDS)
        heartbeat = (beating.used + idle * -1.0) * (1 / beating.heartbeats)
        playing = self.watch("plays", FEW, QUICK_ROUNDS, SECONDS)
        rest = playing.used + (idle + heartbeat * playing.heartbeats) * -1.0
        time.sleep(RESTING_SECONDS)
        events, held, kept = [], [], []
        for number in range(FEW // TOGETHER):
            of = f"optima:{{plays-{number}}}"
            events.append(int(self._site.redis.xlen(f"{of}:events")))
            held.append(int(self._site.redis.memory_usage(f"{of}:events", samples=0) or 0))
            kept.append(int(self._site.redis.memory_usage(f"{of}:snapshot") or 0))
        return Costs(idle, rest * (1 / playing.rounds), heartbeat, 2 * sum(held) / sum(events), statistics.fmean(kept))


def check(measuring: Measuring, costs: Costs, asked: argparse.Namespace) -> dict[str, Any]:
    """Many workers: what they use, and what the model says that they do."""
    seen = measuring.watch("many", asked.workers, asked.pace, asked.seconds)
    workers = Workers(asked.workers, asked.workers // TOGETHER, asked.pace, HEARTBEAT_SECONDS, ROUNDS)
    return {
        "workers": workers.count,
        "runs": workers.runs,
        "round_seconds": asked.pace,
        "seconds": asked.seconds,
        "rounds_per_second": seen.rounds,
        "foreseen_rounds_per_second": workers.rounds_per_second,
        "heartbeats_per_second": seen.heartbeats,
        "foreseen_heartbeats_per_second": workers.heartbeats_per_second,
        "failed": seen.failed,
        "p50_ms": 1e3 * statistics.median(seen.taken),
        "p99_ms": 1e3 * seen.taken[int(0.99 * len(seen.taken))],
        "cores": asdict(seen.used),
        "foreseen_cores": asdict(calls(costs, workers) + costs.idle),
    }


def table(costs: Costs, needed: Sequence[dict[str, float]], checked: dict[str, Any]) -> str:
    """All of it, for people."""
    lines = [f"{'processor time, µs':24} {'server':>8} {'Redis':>8}"]
    for name, work in (("a round", costs.round), ("a heartbeat", costs.heartbeat), ("an idle second", costs.idle)):
        lines.append(f"{name:24} {1e6 * work.server:8.0f} {1e6 * work.redis:8.0f}")
    lines += [f"Redis keeps {costs.round_bytes:.0f} bytes of a round, and {costs.run_bytes:.0f} of a run besides", ""]
    for case in needed:
        lines.append(
            f"{case['workers']:.0f} workers in {case['runs']:.0f} runs: {case['rounds_per_second']:.0f} rounds and "
            f"{case['heartbeats_per_second']:.0f} heartbeats a second: {case['replicas']:.0f} replicas "
            f"({case['server_cores']:.2f} cores); Redis {case['redis_cores']:.2f} cores, {case['redis_gb']:.1f} GB"
        )
    used, foreseen = checked["cores"], checked["foreseen_cores"]
    lines += [
        "",
        f"{checked['workers']} virtual workers in {checked['runs']} runs, a round every {checked['round_seconds']:g} s",
        f"{'':24} {'foreseen':>9} {'measured':>9}",
        f"{'rounds a second':24} {checked['foreseen_rounds_per_second']:9.1f} {checked['rounds_per_second']:9.1f}",
        f"{'heartbeats a second':24} {checked['foreseen_heartbeats_per_second']:9.1f} "
        f"{checked['heartbeats_per_second']:9.1f}",
        f"{'cores of the server':24} {foreseen['server']:9.2f} {used['server']:9.2f}",
        f"{'cores of Redis':24} {foreseen['redis']:9.2f} {used['redis']:9.2f}",
        f"{checked['failed']} calls failed; a round's call: p50 {checked['p50_ms']:.1f} ms, "
        f"p99 {checked['p99_ms']:.1f} ms",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.server.scale_model", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where every number is written")
    parser.add_argument("--workers", type=int, default=1000, help="virtual workers of the check (default: 1000)")
    parser.add_argument("--pace", type=float, default=20.0, help="seconds of their rounds (default: 20)")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long they are watched (default: 30)")
    asked = parser.parse_args(arguments)
    with (
        tempfile.TemporaryDirectory(prefix="optima-scale-") as directory,
        Site(Path(directory), client_processes=0) as site,
    ):
        server = site.ours()
        ready(server)
        measuring = Measuring(site, server)
        costs = measuring.costs()
        checked = check(measuring, costs, asked)
    needed = [needs(costs, Workers(count, runs, ROUND_SECONDS, HEARTBEAT_SECONDS, ROUNDS)) for count, runs in CASES]
    print(table(costs, needed, checked))
    if asked.json:
        told = {
            "command": shlex.join(["python", "-m", "benchmarks.server.scale_model", *(arguments or sys.argv[1:])]),
            "machine": platform.platform(),
            "cpus": os.cpu_count(),
            "costs": asdict(costs),
            "needs": needed,
            "checked": checked,
        }
        asked.json.write_text(json.dumps(told, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if checked["failed"]:
        sys.exit(f"{checked['failed']} calls failed")


if __name__ == "__main__":
    main()
