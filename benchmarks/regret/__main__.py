"""Regret of every policy on every scenario: ``python -m benchmarks.regret --seeds 30 --json regret.json``.

A cell is a scenario, a horizon and a number of arms; every player plays every cell on the same seeds. What is printed
from the regrets, and what it means, is in regret_bar.py. Recorded traces (benchmarks/traces) are played too, with the
arms that they have and as long as they are; there a seed draws the choices only.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from bandit_server.bandit.policy.published import POLICIES
from bandit_server.bandit.simulation.environments import Scenario
from bandit_server.bandit.simulation.scenarios import SCENARIOS, make
from bandit_server.bandit.simulation.simulate import play
from bandit_server.bandit.simulation.traces import Trace
from benchmarks import traces
from benchmarks.flags import whole
from benchmarks.regret.peers import PEERS, player
from benchmarks.regret.thresholds import BLIND, Cell, Results, bar, cells, ranking, report

PACKAGES = ("optima-distill", "numpy", "river", "mabwiser")


class Task(NamedTuple):
    """One player in one cell."""

    cell: Cell
    player: str
    seeds: range


def drawing(cell: Cell, seed: int) -> Scenario:
    """A cell's scenario on a seed, at its beginning."""
    name, horizon, arms = cell
    if name.startswith(traces.PREFIX):
        return Trace(traces.rewards(name), horizon)
    return make(name, horizon, arms, seed)


def all_cells(scenarios: Sequence[str], horizons: Sequence[int], arms: Sequence[int]) -> list[Cell]:
    """Every combination; a trace has the arms that it has, and at most as many pulls as were recorded."""
    drawn = [name for name in scenarios if not name.startswith(traces.PREFIX)]
    recorded = {name: traces.rewards(name) for name in scenarios if name not in drawn}
    found = [(name, horizon, count) for horizon in horizons for count in arms for name in drawn]
    for horizon in horizons:
        found += [(name, min(horizon, sum(map(len, paid))), len(paid)) for name, paid in recorded.items()]
    return list(dict.fromkeys(found))


def regrets(task: Task) -> tuple[Task, list[float], float]:
    """The task, the regret on each of its seeds, and the seconds it took."""
    start = time.perf_counter()
    arms = task.cell[2]
    played = [play(player(task.player, arms, seed), drawing(task.cell, seed)) for seed in task.seeds]
    return task, [outcome.regret for outcome in played], time.perf_counter() - start


def run(tasks: Sequence[Task], jobs: int) -> tuple[Results, dict[str, float]]:
    """All regrets, by cell and player, and the seconds that each player took; progress goes to stderr."""
    left = {cell: sum(task.cell == cell for task in tasks) for cell in dict.fromkeys(task.cell for task in tasks)}
    found: dict[Cell, dict[str, list[float]]] = {cell: {} for cell in left}
    seconds = dict.fromkeys(dict.fromkeys(task.player for task in tasks), 0.0)
    done, start = 0, time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for task, values, took in pool.imap_unordered(regrets, tasks):
            found[task.cell][task.player] = values
            seconds[task.player] += took
            left[task.cell] -= 1
            if not left[task.cell]:
                done += 1
                cell = " ".join(map(str, task.cell))
                print(f"[{done}/{len(left)}] {cell}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    # In the order in which they were asked for, whoever came first.
    return {cell: {name: by_name[name] for name in seconds} for cell, by_name in found.items()}, seconds


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    players, scenarios = [*POLICIES, *PEERS], [*SCENARIOS, *traces.names()]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.regret", description=__doc__.splitlines()[0])
    parser.add_argument("--policies", nargs="+", choices=players, default=players, metavar="NAME",
                        help=f"of {', '.join(players)} (default: all; {BLIND} always plays)")  # fmt: skip
    parser.add_argument("--scenarios", nargs="+", choices=scenarios, default=scenarios, metavar="NAME",
                        help=f"of {', '.join(scenarios)} (default: all)")  # fmt: skip
    parser.add_argument("--horizons", nargs="+", type=whole(1), default=[200, 500, 2000], metavar="PULLS")
    parser.add_argument("--arms", nargs="+", type=whole(2), default=[3, 7], metavar="ARMS")
    parser.add_argument("--seeds", type=whole(1), default=30, help="drawings of each cell (default: 30)")
    parser.add_argument("--first-seed", type=whole(0), default=0, help="the seed of the first (default: 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where every number is written")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="where a picture is drawn (.png, .svg)")
    parser.add_argument("--jobs", type=whole(1), default=2, help="processes (default: 2)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    asked = parsed(arguments)
    seeds = range(asked.first_seed, asked.first_seed + asked.seeds)
    wanted = all_cells(asked.scenarios, asked.horizons, asked.arms)
    names = dict.fromkeys([*asked.policies, BLIND])
    start = time.perf_counter()
    results, seconds = run([Task(cell, name, seeds) for cell in wanted for name in names], asked.jobs)
    print(report(results))
    if asked.json:
        told: dict[str, Any] = {
            "command": shlex.join(["python", "-m", "benchmarks.regret", *(arguments or sys.argv[1:])]),
            "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
            "machine": platform.platform(),
            "cpus": os.cpu_count(),
            "seconds": time.perf_counter() - start,
            "seeds": list(seeds),
            "microseconds_per_pull": {
                name: 1e6 * took / (len(seeds) * sum(cell[1] for cell in results)) for name, took in seconds.items()
            },
            "cells": cells(results),
            "ranking": ranking(results),
            "bar": bar(results),
        }
        asked.json.write_text(json.dumps(told, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    if asked.plot:
        from benchmarks.regret.plot import draw

        draw(results, asked.plot)


if __name__ == "__main__":
    main()
