"""Plays every player in every cell, in several processes.

This is a module of its own because spawned processes do not import the ``__main__`` module of a package.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from bandit_server.bandit.simulation.environments import Scenario
from bandit_server.bandit.simulation.scenarios import make
from bandit_server.bandit.simulation.simulate import play
from bandit_server.bandit.simulation.traces import Trace
from benchmarks import traces
from benchmarks.regret.peers import player
from benchmarks.regret.thresholds import Cell, Results


class Task(NamedTuple):
    """One player in one cell, on some seeds."""

    cell: Cell
    player: str
    seeds: range


def all_cells(scenarios: Sequence[str], horizons: Sequence[int], arms: Sequence[int]) -> list[Cell]:
    """Return every combination. A trace has its own number of arms, and at most as many pulls as were recorded."""
    simulated = [name for name in scenarios if not name.startswith(traces.PREFIX)]
    recorded = {name: traces.rewards(name) for name in scenarios if name not in simulated}
    cells = [(name, horizon, count) for horizon in horizons for count in arms for name in simulated]
    for horizon in horizons:
        cells += [(name, min(horizon, sum(map(len, rewards))), len(rewards)) for name, rewards in recorded.items()]
    return list(dict.fromkeys(cells))


def run(tasks: Sequence[Task], processes: int) -> tuple[Results, dict[str, float]]:
    """Run all tasks; progress is printed to stderr.

    Returns:
        All regrets by cell and player, and the seconds that each player took.
    """
    left = {cell: sum(task.cell == cell for task in tasks) for cell in dict.fromkeys(task.cell for task in tasks)}
    results: dict[Cell, dict[str, list[float]]] = {cell: {} for cell in left}
    seconds = dict.fromkeys(dict.fromkeys(task.player for task in tasks), 0.0)
    done, start = 0, time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for task, regrets, duration in pool.imap_unordered(_regrets, tasks):
            results[task.cell][task.player] = regrets
            seconds[task.player] += duration
            left[task.cell] -= 1
            if not left[task.cell]:
                done += 1
                cell = " ".join(map(str, task.cell))
                print(f"[{done}/{len(left)}] {cell}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    # In the order of the tasks, whichever ended first.
    return {cell: {name: by_player[name] for name in seconds} for cell, by_player in results.items()}, seconds


def _regrets(task: Task) -> tuple[Task, list[float], float]:
    """Return the task, the regret on each of its seeds, and the seconds it took."""
    start = time.perf_counter()
    arms = task.cell[2]
    outcomes = [play(player(task.player, arms, seed), _scenario(task.cell, seed)) for seed in task.seeds]
    return task, [outcome.regret for outcome in outcomes], time.perf_counter() - start


def _scenario(cell: Cell, seed: int) -> Scenario:
    name, horizon, arms = cell
    if name.startswith(traces.PREFIX):
        return Trace(traces.rewards(name), horizon)
    return make(name, horizon, arms, seed)
