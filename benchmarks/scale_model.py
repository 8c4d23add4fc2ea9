"""What many workers need: ``python -m benchmarks.scale_model --json scale.json``.

Measured on this machine: the server's and Redis' processor time for one round (a select and a report), the bytes that
Redis keeps of it, and of a snapshot. From these, what so many workers need. Then it is checked: 1,000 workers of their
own, over real calls, at a worker's pace; what the server then uses, beside what the model says. See docs/scale.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shlex
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.clients import Window
from benchmarks.site import Site, ready

# A replica is one process on one core, of which this share is to be used: the rest is for what comes unevenly.
USED = 0.6
# Of a round, seconds; of a run, rounds per worker.
ROUND_SECONDS = 30.0
ROUNDS = 1000
CASES = ((1_000, 100), (100_000, 10_000))


def costs(site: Site, address: str, server: Any, seconds: float) -> dict[str, float]:
    """What one round costs, with 8 clients that play without a pause."""
    runs = [[f"cost-{number}"] for number in range(8)]
    site.play(Window("ours", [address], runs), 8)
    before, redis_before = server.cpu, site.redis_process.cpu
    played = len(site.play(Window("ours", [address], runs, seconds), 8))
    length = sum(int(site.redis.xlen(f"optima:{{{run}}}:events")) for (run,) in runs)
    held = sum(int(site.redis.memory_usage(f"optima:{{{run}}}:events", samples=0) or 0) for (run,) in runs)
    return {
        "server_seconds": (server.cpu - before) / played,
        "redis_seconds": (site.redis_process.cpu - redis_before) / played,
        "redis_bytes": 2 * held / length,
    }


def needs(cost: dict[str, float], snapshot: float, workers: int, runs: int) -> dict[str, float]:
    """What so many workers in so many runs need: a round every ROUND_SECONDS, and ROUNDS rounds of each worker kept."""
    per_second = workers / ROUND_SECONDS
    return {
        "workers": workers,
        "runs": runs,
        "rounds_per_second": per_second,
        "replicas": math.ceil(per_second * cost["server_seconds"] / USED),
        "redis_cores": per_second * cost["redis_seconds"],
        "redis_gb": (workers * ROUNDS * cost["redis_bytes"] + runs * snapshot) / 1e9,
    }


def check(site: Site, address: str, server: Any, workers: int, pace: float, seconds: float) -> dict[str, float]:
    """So many virtual workers in two processes, and what the server uses meanwhile."""
    before = server.cpu
    processes = [
        site.python("benchmarks.virtual_workers", address, "--workers", str(workers // 2), "--pace", str(pace),
                    "--seconds", str(seconds), "--name", f"v{at}")
        for at in range(2)
    ]  # fmt: skip
    told = [json.loads(process.line()) for process in processes]
    taken = sorted(seconds for some in told for seconds in some["taken"])
    rounds = sum(some["rounds"] for some in told)
    return {
        "workers": workers,
        "pace_seconds": pace,
        "rounds": rounds,
        "failed": sum(some["failed"] for some in told),
        "p50_ms": 1e3 * statistics.median(taken),
        "p99_ms": 1e3 * taken[int(0.99 * len(taken))],
        "server_seconds": (server.cpu - before) / rounds,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale_model", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where every number is written")
    parser.add_argument("--workers", type=int, default=1000, help="virtual workers of the check (default: 1000)")
    parser.add_argument("--pace", type=float, default=20.0, help="seconds of their rounds (default: 20)")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long they play (default: 60)")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="optima-scale-") as directory, Site(Path(directory)) as site:
        server = site.ours()
        ready(server)
        cost = costs(site, server.address, server, 5.0)
        checked = check(site, server.address, server, asked.workers, asked.pace, asked.seconds)
        kept = [int(site.redis.memory_usage(key) or 0) for key in site.redis.scan_iter(match="*:snapshot", count=1000)]
    snapshot = statistics.fmean(kept) if kept else 0.0
    needed = [needs(cost, snapshot, workers, runs) for workers, runs in CASES]
    print(
        f"a round costs {1e6 * cost['server_seconds']:.0f} µs of the server, {1e6 * cost['redis_seconds']:.0f} µs of "
        f"Redis and {cost['redis_bytes']:.0f} bytes there; a snapshot {snapshot:.0f} bytes"
    )
    for case in needed:
        print(
            f"{case['workers']} workers in {case['runs']} runs: {case['rounds_per_second']:.0f} rounds/s, "
            f"{case['replicas']} replicas, {case['redis_cores']:.2f} cores and {case['redis_gb']:.1f} GB of Redis"
        )
    print(
        f"{checked['workers']} virtual workers, a round every {checked['pace_seconds']:g} s: "
        f"{checked['rounds']} rounds, "
        f"{checked['failed']} calls failed, p50 {checked['p50_ms']:.1f} ms, p99 {checked['p99_ms']:.1f} ms, "
        f"{1e6 * checked['server_seconds']:.0f} µs of the server a round"
    )
    if asked.json:
        told = {
            "command": shlex.join(["python", "-m", "benchmarks.scale_model", *(arguments or sys.argv[1:])]),
            "machine": platform.platform(),
            "cpus": os.cpu_count(),
            "cost_of_a_round": {**cost, "snapshot_bytes": snapshot},
            "needs": needed,
            "checked": checked,
        }
        asked.json.write_text(json.dumps(told, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if checked["failed"]:
        sys.exit(f"{checked['failed']} calls failed")


if __name__ == "__main__":
    main()
