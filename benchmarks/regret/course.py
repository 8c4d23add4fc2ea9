"""Which arm is played when: ``python -m benchmarks.regret.course --scenario coupled --arms 3 --plot course.png``.

One drawing of one scenario, played by several players; what each gains, and where its pulls go.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from bandit_server.bandit.policy.published import POLICIES
from bandit_server.bandit.simulation.environments import Scenario
from bandit_server.bandit.simulation.scenarios import SCENARIOS, make
from bandit_server.bandit.simulation.simulate import Player, play
from benchmarks.regret.peers import PEERS, player


class Course(NamedTuple):
    """How a player played: its arms, and the share of what the oracle gains that it had gained after each, both [T]."""

    arms: list[int]
    gained: list[float]


class _Watched:
    """A player whose choices are noted."""

    def __init__(self, player: Player, scenario: Scenario) -> None:
        self._player = player
        self._scenario = scenario
        self.course = Course([], [])

    def select(self, worker: str) -> int:
        """See Player."""
        arm = self._player.select(worker)
        self.course.arms.append(arm)
        self.course.gained.append(self._scenario.gained / self._scenario.best)
        return arm

    def report(self, number: int, arm: int, worker: str, reward: float) -> None:
        """See Player."""
        self._player.report(number, arm, worker, reward)


def course(name: str, scenario: str, horizon: int, arms: int, seed: int) -> Course:
    """Play a scenario from beginning to end."""
    drawing = make(scenario, horizon, arms, seed)
    watched = _Watched(player(name, arms, seed), drawing)
    play(watched, drawing)
    return watched.course


def draw(courses: dict[str, Course], arms: int, title: str, path: Path) -> None:
    """Above what each has gained; below, for each, which arm was played when."""
    figure, axes = pyplot.subplots(
        1 + len(courses), 1, figsize=(9, 3 + 0.25 * (arms + 2) * len(courses)), sharex=True, layout="constrained",
        height_ratios=[8, *[arms + 1] * len(courses)],
    )  # fmt: skip
    for at, (name, played) in enumerate(courses.items()):
        colour = f"C{at}"
        axes[0].plot(played.gained, color=colour, label=name)
        axes[1 + at].scatter(range(len(played.arms)), played.arms, marker="|", s=30, linewidths=0.8, color=colour)
        axes[1 + at].set(title=name, ylim=(arms - 0.5, -0.5), yticks=range(arms), ylabel="arm")
    axes[0].axhline(1, color="grey", linewidth=0.5)
    axes[0].set(title=title, ylabel="share of the best")
    axes[0].legend()
    axes[-1].set_xlabel("pulls")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    players = [*POLICIES, *PEERS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.regret.course", description=__doc__.splitlines()[0])
    parser.add_argument("--scenario", choices=SCENARIOS, default="coupled", metavar="NAME")
    parser.add_argument("--policies", nargs="+", choices=players, metavar="NAME",
                        default=["optima", "round_robin", "sliding_window_ts"])  # fmt: skip
    parser.add_argument("--horizon", type=int, default=500, metavar="PULLS")
    parser.add_argument("--arms", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the drawing and the choices")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="where the picture is drawn (.png, .svg)")
    asked = parser.parse_args(arguments)
    try:
        courses = {
            name: course(name, asked.scenario, asked.horizon, asked.arms, asked.seed)
            for name in dict.fromkeys(asked.policies)
        }
    except ValueError as error:
        parser.error(str(error))
    title = f"{asked.scenario}, {asked.horizon} pulls of {asked.arms} arms, seed {asked.seed}"
    print(title)
    for name, played in courses.items():
        counts = ", ".join(str(played.arms.count(arm)) for arm in range(asked.arms))
        print(f"  {name}: gained {played.gained[-1]:.1%} of what the best player gains; pulls {counts}")
    if asked.plot:
        draw(courses, asked.arms, title, asked.plot)


if __name__ == "__main__":
    main()
