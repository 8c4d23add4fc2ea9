"""Regret of every policy on every scenario: ``python -m benchmarks.regret --seeds 30 --json regret.json``.

A cell is a scenario, a horizon and a number of arms. Every player plays every cell on the same seeds. thresholds.py
defines the printed numbers. Recorded traces (benchmarks/traces) are played too, with their own number of arms and at
most their own length; for them the seed draws the choices only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bandit_server.bandit.policy.published import POLICIES
from bandit_server.bandit.simulation.scenarios import SCENARIOS
from benchmarks import traces
from benchmarks.flags import whole_number
from benchmarks.regret.peers import PEERS
from benchmarks.regret.run import Task, all_cells, run
from benchmarks.regret.thresholds import UNIFORM, cell_statistics, compare_with_thresholds, ranking, report

PACKAGES = ("optima-distill", "numpy", "river", "mabwiser")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    players, scenarios = [*POLICIES, *PEERS], [*SCENARIOS, *traces.names()]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.regret", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--policies", nargs="+", choices=players, default=players, metavar="NAME",
                        help=f"one or more of {', '.join(players)} (default: all; {UNIFORM} in any case)")  # fmt: skip
    parser.add_argument("--scenarios", nargs="+", choices=scenarios, default=scenarios, metavar="NAME",
                        help=f"one or more of {', '.join(scenarios)} (default: all)")  # fmt: skip
    parser.add_argument("--horizons", nargs="+", type=whole_number(1), default=[200, 500, 2000], metavar="PULLS",
                        help="numbers of pulls (default: 200 500 2000)")  # fmt: skip
    parser.add_argument("--arms", nargs="+", type=whole_number(2), default=[3, 7], metavar="ARMS",
                        help="numbers of arms (default: 3 7)")  # fmt: skip
    parser.add_argument("--seeds", type=whole_number(1), default=30, help="random problems per cell (default: 30)")
    parser.add_argument("--first-seed", type=whole_number(0), default=0, help="the first seed (default: 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number to this file")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the regrets to this file (.png, .svg)")
    parser.add_argument("--jobs", type=whole_number(1), default=2, help="processes (default: 2)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    arguments = parse_arguments(argv)
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    cells = all_cells(arguments.scenarios, arguments.horizons, arguments.arms)
    players = dict.fromkeys([*arguments.policies, UNIFORM])
    start = time.perf_counter()
    results, seconds = run([Task(cell, name, seeds) for cell in cells for name in players], arguments.jobs)
    print(report(results))
    if arguments.json:
        content: dict[str, Any] = {
            "command": shlex.join(["python", "-m", "benchmarks.regret", *(argv or sys.argv[1:])]),
            "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
            "machine": platform.platform(),
            "cpus": os.cpu_count(),
            "seconds": time.perf_counter() - start,
            "seeds": list(seeds),
            "microseconds_per_pull": {
                name: 1e6 * duration / (len(seeds) * sum(cell[1] for cell in results))
                for name, duration in seconds.items()
            },
            "cells": cell_statistics(results),
            "ranking": ranking(results),
            "bar": compare_with_thresholds(results),
        }
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        arguments.json.write_text(text + "\n", encoding="utf-8")
    if arguments.plot:
        from benchmarks.regret.plot import draw

        draw(results, arguments.plot)


if __name__ == "__main__":
    main()
