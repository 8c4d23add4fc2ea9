"""The course of play: ``python -m benchmarks.regret.course --scenario coupled --arms 3 --plot course.png``.

Several players play one drawing of a scenario; the gain of each and its pulls of every arm are printed and drawn.
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
    """The course of one player.

    Attributes:
        arms: The arm of each pull, [T].
        gained: The gain before each pull, as a fraction of the oracle's whole gain, [T].
    """

    arms: list[int]
    gained: list[float]


class _RecordingPlayer:
    """A player whose choices are recorded."""

    def __init__(self, player: Player, scenario: Scenario) -> None:
        self._player = player
        self._scenario = scenario
        self.course = Course([], [])

    def select(self, worker: str) -> int:
        """Choose the arm of the worker's next pull."""
        arm = self._player.select(worker)
        self.course.arms.append(arm)
        self.course.gained.append(self._scenario.gained / self._scenario.best)
        return arm

    def report(self, number: int, arm: int, worker: str, reward: float) -> None:
        """Report the reward of a pull."""
        self._player.report(number, arm, worker, reward)


def course(name: str, scenario: str, horizon: int, arms: int, seed: int) -> Course:
    """Play a scenario from beginning to end and return the course."""
    drawing = make(scenario, horizon, arms, seed)
    recording = _RecordingPlayer(player(name, arms, seed), drawing)
    play(recording, drawing)
    return recording.course


def draw(courses: dict[str, Course], arms: int, title: str, path: Path) -> None:
    """Draw the gain of every player at the top, and below it the arms that each one played."""
    figure, axes = pyplot.subplots(
        1 + len(courses), 1, figsize=(9, 3 + 0.25 * (arms + 2) * len(courses)), sharex=True, layout="constrained",
        height_ratios=[8, *[arms + 1] * len(courses)],
    )  # fmt: skip
    for index, (name, played) in enumerate(courses.items()):
        colour = f"C{index}"
        axes[0].plot(played.gained, color=colour, label=name)
        axes[1 + index].scatter(range(len(played.arms)), played.arms, marker="|", s=30, linewidths=0.8, color=colour)
        axes[1 + index].set(title=name, ylim=(arms - 0.5, -0.5), yticks=range(arms), ylabel="arm")
    axes[0].axhline(1, color="grey", linewidth=0.5)
    axes[0].set(title=title, ylabel="fraction of the oracle's gain")
    axes[0].legend()
    axes[-1].set_xlabel("pulls")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    players = [*POLICIES, *PEERS]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.regret.course", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--scenario", choices=SCENARIOS, default="coupled", metavar="NAME")
    parser.add_argument("--policies", nargs="+", choices=players, metavar="NAME",
                        default=["optima", "round_robin", "sliding_window_ts"])  # fmt: skip
    parser.add_argument("--horizon", type=int, default=500, metavar="PULLS")
    parser.add_argument("--arms", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="seed of the random problem and of the choices")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the course to this file (.png, .svg)")
    arguments = parser.parse_args(argv)
    try:
        courses = {
            name: course(name, arguments.scenario, arguments.horizon, arguments.arms, arguments.seed)
            for name in dict.fromkeys(arguments.policies)
        }
    except ValueError as error:
        parser.error(str(error))
    title = f"{arguments.scenario}, {arguments.horizon} pulls of {arguments.arms} arms, seed {arguments.seed}"
    print(title)
    for name, played in courses.items():
        counts = ", ".join(str(played.arms.count(arm)) for arm in range(arguments.arms))
        print(f"  {name}: gained {played.gained[-1]:.1%} of the best player's gain; pulls {counts}")
    if arguments.plot:
        draw(courses, arguments.arms, title, arguments.plot)


if __name__ == "__main__":
    main()
