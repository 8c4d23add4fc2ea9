"""One policy on one scenario: what it loses against the oracle."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

from bandit_server.bandit.policy import Policy, build
from bandit_server.bandit.random import Randomness
from bandit_server.bandit.simulation.environments import Scenario
from bandit_server.bandit.simulation.scenarios import make


class Player(Protocol):
    """Whoever can choose arms and be told what they brought."""

    def select(self, worker: str) -> int:
        """The arm of the next pull, which this worker makes."""
        ...

    def report(self, number: int, arm: int, worker: str, reward: float) -> None:
        """What pull `number` (from 0) brought; others may have been made since."""
        ...


class Seat:
    """A policy as a player: it is told what a run would tell it.

    Args:
        policy: One that knows nothing yet.
        arms: How many there are.
        seed: Of its choices.
    """

    def __init__(self, policy: Policy, arms: int, seed: int) -> None:
        self._policy = policy
        self._active = range(arms)
        self._randomness = Randomness(seed)
        self._next = 0
        self._open: dict[int, int] = {}

    def select(self, worker: str) -> int:
        """See Player."""
        rng = self._randomness.at(worker, self._next)
        in_flight = list(self._open.values())
        arm = self._policy.choose(in_flight=in_flight, active=self._active, rng=rng)[0]
        self._policy.pulled(self._next, arm)
        self._open[self._next] = arm
        self._next += 1
        return arm

    def report(self, number: int, arm: int, worker: str, reward: float) -> None:
        """See Player."""
        del self._open[number]
        self._policy.rewarded(number, arm, worker, reward)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a scenario was played.

    Attributes:
        regret: What the oracle gains more, in the scenario's units.
        pulls: Of each arm, [K].
        ranks: Pulls of the arm whose expected reward was then the highest, the second highest and so on, [K].
    """

    regret: float
    pulls: tuple[int, ...]
    ranks: tuple[int, ...]


def play(player: Player, scenario: Scenario) -> Outcome:
    """Play a scenario from its beginning to its end; `delay` pulls are always in flight."""
    pulls, ranks = [0] * scenario.arms, [0] * scenario.arms
    flying: deque[tuple[int, int, str, float]] = deque()
    for t in range(scenario.horizon):
        worker = scenario.worker(t)
        arm = player.select(worker)
        means = [scenario.mean(each) for each in range(scenario.arms)]
        pulls[arm] += 1
        ranks[sum(mean > means[arm] for mean in means)] += 1
        flying.append((t, arm, worker, scenario.pull(arm)))
        if len(flying) > scenario.delay:
            player.report(*flying.popleft())
    return Outcome(scenario.regret, tuple(pulls), tuple(ranks))


def simulate(
    policy: str, scenario: str, horizon: int, arms: int, seed: int, options: dict[str, float] | None = None
) -> Outcome:
    """A named policy on a named scenario; the seed draws both the scenario and the choices.

    Raises:
        ValueError: There is no such policy, option or scenario, or a number is out of its range.
    """
    drawn = make(scenario, horizon, arms, seed)
    return play(Seat(build(policy, options or {}, arms), arms, seed), drawn)
