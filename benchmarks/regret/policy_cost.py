"""What a choice costs: ``python -m benchmarks.regret.policy_cost --json cost.json``.

Median microseconds of one select and one report, after few pulls and after many: a policy whose cost depends on the
length of its history shows it. Ours are played through the library (bandit_server.bandit.Bandit), beside River's UCB
and MABWiser's UCB1 in the same process; blocks of all players alternate, so that what else the machine does meanwhile
falls on all alike.
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
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bandit_server.bandit import Bandit, Pull
from bandit_server.bandit.policy.published import POLICIES
from bandit_server.bandit.simulation.simulate import Player
from benchmarks.flags import whole
from benchmarks.regret.peers import PEERS

COMPARED = ("river_ucb", "mabwiser_ucb1")
PACKAGES = ("optima-distill", "numpy", "river", "mabwiser")
BLOCKS = 10
# Of the default policy, in microseconds at 7 arms.
BAR = 50.0


class Library:
    """A bandit of ours as a player."""

    def __init__(self, policy: str, arms: int) -> None:
        self._bandit = Bandit(arms, policy)

    def select(self, worker: str) -> int:
        """See Player."""
        return self._bandit.select().arm

    def report(self, number: int, arm: int, worker: str, reward: float) -> None:
        """See Player."""
        self._bandit.report(Pull(number, arm), reward)


@dataclass
class Timed:
    """A player in the middle of a game whose arms pay `means`, plus noise of 0.1.

    Attributes:
        pulls: So far.
        microseconds: Of single pulls, those of timed blocks.
    """

    player: Player
    means: Sequence[float]
    noise: Sequence[float]
    pulls: int = 0
    microseconds: list[float] = field(default_factory=list)

    def play(self, count: int, timed: bool) -> None:
        """So many pulls."""
        for number in range(self.pulls, self.pulls + count):
            start = time.perf_counter_ns()
            arm = self.player.select("w")
            chosen = time.perf_counter_ns()
            reward = self.means[arm] + self.noise[number % len(self.noise)]
            ready = time.perf_counter_ns()
            self.player.report(number, arm, "w", reward)
            if timed:
                self.microseconds.append((time.perf_counter_ns() - ready + chosen - start) / 1000)
        self.pulls += count


def measure(names: Sequence[str], arms: int, after: int, count: int) -> dict[str, float]:
    """Median microseconds of `count` pulls after `after` others, by player."""
    rng = np.random.default_rng(0)
    means, noise = rng.uniform(0.2, 1, arms).tolist(), (0.1 * rng.standard_normal(10_007)).tolist()
    games = {
        name: Timed(PEERS[name](arms, 0) if name in PEERS else Library(name, arms), means, noise) for name in names
    }
    for game in games.values():
        game.play(after, timed=False)
    for _ in range(BLOCKS):
        for game in games.values():
            game.play(max(count // BLOCKS, 1), timed=True)
    return {name: median(game.microseconds) for name, game in games.items()}


def table(costs: dict[int, dict[str, float]], arms: int) -> str:
    """For people; the longest history decides the order."""
    few, *_, many = sorted(costs)
    width = max(map(len, costs[many]))
    heads = "".join(f"{f'after {after:,}':>14}" for after in sorted(costs))
    lines = [f"Median µs of select + report at {arms} arms", f"  {'':{width}}{heads}   longest/shortest"]
    for name in sorted(costs[many], key=costs[many].__getitem__):
        values = "".join(f"{costs[after][name]:14.1f}" for after in sorted(costs))
        lines.append(f"  {name:{width}}{values}{costs[many][name] / costs[few][name]:12.2f}")
    if "optima" in costs[many]:
        most = max(costs[after]["optima"] for after in costs)
        lines.append(f"optima: {most:.1f} µs; {'within' if most <= BAR else 'above'} {BAR:g}")
    return "\n".join(lines)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    players = [*POLICIES, *COMPARED]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.regret.policy_cost", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--policies", nargs="+", choices=players, default=players, metavar="NAME",
                        help=f"of {', '.join(players)} (default: all)")  # fmt: skip
    parser.add_argument("--arms", type=whole(1), default=7, help="how many (default: 7)")
    parser.add_argument("--after", nargs=2, type=whole(1), default=[100, 10_000], metavar="PULLS",
                        help="lengths of history (default: 100 10000)")  # fmt: skip
    parser.add_argument("--pulls", type=whole(1), default=1000, help="timed at each (default: 1000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the numbers are written")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    asked = parsed(arguments)
    names = list(dict.fromkeys(asked.policies))
    costs = {after: measure(names, asked.arms, after, asked.pulls) for after in asked.after}
    print(table(costs, asked.arms))
    if asked.json:
        told: dict[str, Any] = {
            "command": shlex.join(["python", "-m", "benchmarks.regret.policy_cost", *(arguments or sys.argv[1:])]),
            "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
            "machine": platform.platform(),
            "cpus": os.cpu_count(),
            "arms": asked.arms,
            "timed_pulls": asked.pulls,
            "median_microseconds": {
                name: {str(after): by_name[name] for after, by_name in costs.items()} for name in names
            },
        }
        asked.json.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
