"""The time of a choice: ``python -m benchmarks.regret.policy_cost --json cost.json``.

Median microseconds of one select and one report, after few pulls and after many, which shows whether the time depends
on the length of the history. Our policies are played through the library (bandit_server.bandit.Bandit), next to River's
UCB and MABWiser's UCB1 in the same process. Blocks of all players alternate, so that other load on the machine affects
all of them equally.
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
from benchmarks.flags import whole_number
from benchmarks.regret.peers import PEERS

COMPARED = ("river_ucb", "mabwiser_ucb1")
PACKAGES = ("optima-distill", "numpy", "river", "mabwiser")
BLOCKS = 10
# The threshold of the default policy, in microseconds at 7 arms.
MAX_MICROSECONDS = 50.0


class LibraryPlayer:
    """A bandit_server.bandit.Bandit as a player."""

    def __init__(self, policy: str, arms: int) -> None:
        self._bandit = Bandit(arms, policy)

    def select(self, worker: str) -> int:
        """Choose the arm of the worker's next pull."""
        return self._bandit.select().arm

    def report(self, number: int, arm: int, worker: str, reward: float) -> None:
        """Report the reward of a pull."""
        self._bandit.report(Pull(number, arm), reward)


@dataclass
class TimedPlayer:
    """A player whose pulls are timed.

    Attributes:
        player: The player.
        means: The expected reward of each arm.
        noise: The noise of successive pulls, repeated.
        pulls: The number of pulls so far.
        microseconds: The time of each pull of the timed blocks.
    """

    player: Player
    means: Sequence[float]
    noise: Sequence[float]
    pulls: int = 0
    microseconds: list[float] = field(default_factory=list)

    def play(self, count: int, timed: bool) -> None:
        """Make `count` pulls."""
        for number in range(self.pulls, self.pulls + count):
            start = time.perf_counter_ns()
            arm = self.player.select("w")
            selected = time.perf_counter_ns()
            reward = self.means[arm] + self.noise[number % len(self.noise)]
            ready = time.perf_counter_ns()
            self.player.report(number, arm, "w", reward)
            if timed:
                self.microseconds.append((time.perf_counter_ns() - ready + selected - start) / 1000)
        self.pulls += count


def measure(names: Sequence[str], arms: int, after: int, count: int) -> dict[str, float]:
    """Return the median microseconds of `count` pulls after `after` others, by player."""
    rng = np.random.default_rng(0)
    means, noise = rng.uniform(0.2, 1, arms).tolist(), (0.1 * rng.standard_normal(10_007)).tolist()
    players = {
        name: TimedPlayer(PEERS[name](arms, 0) if name in PEERS else LibraryPlayer(name, arms), means, noise)
        for name in names
    }
    for player in players.values():
        player.play(after, timed=False)
    for _ in range(BLOCKS):
        for player in players.values():
            player.play(max(count // BLOCKS, 1), timed=True)
    return {name: median(player.microseconds) for name, player in players.items()}


def table(costs: dict[int, dict[str, float]], arms: int) -> str:
    """Return the costs as text, ordered by the cost after the longest history."""
    few, *_, many = sorted(costs)
    width = max(map(len, costs[many]))
    heads = "".join(f"{f'after {after:,}':>14}" for after in sorted(costs))
    lines = [f"Median µs of select + report at {arms} arms", f"  {'':{width}}{heads}   longest/shortest"]
    for name in sorted(costs[many], key=costs[many].__getitem__):
        values = "".join(f"{costs[after][name]:14.1f}" for after in sorted(costs))
        lines.append(f"  {name:{width}}{values}{costs[many][name] / costs[few][name]:12.2f}")
    if "optima" in costs[many]:
        most = max(costs[after]["optima"] for after in costs)
        lines.append(f"optima: {most:.1f} µs; {'within' if most <= MAX_MICROSECONDS else 'above'} {MAX_MICROSECONDS:g}")
    return "\n".join(lines)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    players = [*POLICIES, *COMPARED]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.regret.policy_cost", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--policies", nargs="+", choices=players, default=players, metavar="NAME",
                        help=f"one or more of {', '.join(players)} (default: all)")  # fmt: skip
    parser.add_argument("--arms", type=whole_number(1), default=7, help="number of arms (default: 7)")
    parser.add_argument("--after", nargs=2, type=whole_number(1), default=[100, 10_000], metavar="PULLS",
                        help="lengths of history (default: 100 10000)")  # fmt: skip
    parser.add_argument(
        "--pulls", type=whole_number(1), default=1000, help="timed pulls at each length (default: 1000)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number to this file")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    arguments = parse_arguments(argv)
    names = list(dict.fromkeys(arguments.policies))
    costs = {after: measure(names, arguments.arms, after, arguments.pulls) for after in arguments.after}
    print(table(costs, arguments.arms))
    if arguments.json:
        content: dict[str, Any] = {
            "command": shlex.join(["python", "-m", "benchmarks.regret.policy_cost", *(argv or sys.argv[1:])]),
            "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
            "machine": platform.platform(),
            "cpus": os.cpu_count(),
            "arms": arguments.arms,
            "timed_pulls": arguments.pulls,
            "median_microseconds": {
                name: {str(after): by_name[name] for after, by_name in costs.items()} for name in names
            },
        }
        arguments.json.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
