"""Plays a policy on a scenario and measures its regret against the oracle."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

from bandit_server.bandit.policy import Policy, build
from bandit_server.bandit.random import Randomness
from bandit_server.bandit.simulation.environments import Scenario
from bandit_server.bandit.simulation.scenarios import make


class Player(Protocol):
    """Anything that can choose arms and receive their rewards."""

    def select(self, worker: str) -> int:
        """Choose the arm of this worker's next pull."""
        ...

    def report(self, number: int, arm: int, worker: str, reward: float) -> None:
        """Report the reward of pull `number`, counted from 0; later pulls may have been made since."""
        ...


class PolicyPlayer:
    """A player that asks a policy, as a run does.

    Args:
        policy: A new policy.
        arms: The number of arms.
        seed: The seed of its choices.
    """

    def __init__(self, policy: Policy, arms: int, seed: int) -> None:
        self._policy = policy
        self._active = range(arms)
        self._randomness = Randomness(seed)
        self._next = 0
        self._open: dict[int, int] = {}

    def select(self, worker: str) -> int:
        """Choose the arm of the worker's next pull."""
        rng = self._randomness.at(worker, self._next)
        in_flight = list(self._open.values())
        arm = self._policy.choose(in_flight=in_flight, active=self._active, rng=rng)[0]
        self._policy.pulled(self._next, arm)
        self._open[self._next] = arm
        self._next += 1
        return arm

    def report(self, number: int, arm: int, worker: str, reward: float) -> None:
        """Report the reward of a pull."""
        del self._open[number]
        self._policy.rewarded(number, arm, worker, reward)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of playing a scenario.

    Attributes:
        regret: The oracle's gain minus the player's, in the scenario's units.
        pulls: The number of pulls of each arm, [K].
        ranks: The number of pulls of the arm with the then highest expected reward, second highest and so on, [K].
    """

    regret: float
    pulls: tuple[int, ...]
    ranks: tuple[int, ...]


def play(player: Player, scenario: Scenario) -> Outcome:
    """Play a scenario from its beginning to its end; `delay` pulls are always in flight."""
    pulls, ranks = [0] * scenario.arms, [0] * scenario.arms
    in_flight: deque[tuple[int, int, str, float]] = deque()
    for t in range(scenario.horizon):
        worker = scenario.worker(t)
        arm = player.select(worker)
        means = [scenario.mean(each) for each in range(scenario.arms)]
        pulls[arm] += 1
        ranks[sum(mean > means[arm] for mean in means)] += 1
        in_flight.append((t, arm, worker, scenario.pull(arm)))
        if len(in_flight) > scenario.delay:
            player.report(*in_flight.popleft())
    return Outcome(scenario.regret, tuple(pulls), tuple(ranks))


def simulate(
    policy: str, scenario: str, horizon: int, arms: int, seed: int, options: dict[str, float] | None = None
) -> Outcome:
    """Play a policy on a scenario, both by name. The seed draws both the scenario and the choices.

    Raises:
        ValueError: The policy, an option or the scenario does not exist, or a number is out of range.
    """
    drawing = make(scenario, horizon, arms, seed)
    return play(PolicyPlayer(build(policy, options or {}, arms), arms, seed), drawing)
