"""Bandits of other libraries as players of our scenarios.

River (Montiel et al., JMLR 2021) and MABWiser (Strong et al., IJAIT 2021) are used as their documentation shows, with
the settings named here. They receive a reward at the same time as our policies, in the units in which it is reported.
They have no notion of workers or of pulls in flight.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from bandit_server.bandit.policy import build
from bandit_server.bandit.simulation.simulate import Player, PolicyPlayer


class River:
    """A policy of river.bandit.

    Args:
        policy: A new policy.
        arms: The number of arms.
    """

    def __init__(self, policy: Any, arms: int) -> None:
        self._policy = policy
        self._arms = list(range(arms))

    def select(self, worker: str) -> int:
        """Choose the arm of the worker's next pull."""
        return int(self._policy.pull(self._arms))

    def report(self, number: int, arm: int, worker: str, reward: float) -> None:
        """Report the reward of a pull."""
        self._policy.update(arm, reward)


class MabWiser:
    """A policy of mabwiser. It cannot choose without rewards, so every arm is played once first.

    Args:
        bandit: A mabwiser.mab.MAB without rewards.
        arms: The number of arms.
    """

    def __init__(self, bandit: Any, arms: int) -> None:
        self._bandit = bandit
        self._untried = set(range(arms))
        self._turn = itertools.cycle(range(arms))

    def select(self, worker: str) -> int:
        """Choose the arm of the worker's next pull."""
        return next(self._turn) if self._untried else int(self._bandit.predict())

    def report(self, number: int, arm: int, worker: str, reward: float) -> None:
        """Report the reward of a pull."""
        self._bandit.partial_fit([arm], [reward])
        self._untried.discard(arm)


def river_ucb(arms: int, seed: int) -> Player:
    """Return River's UCB, δ = 0.3, on an exponential moving average of weight 0.1."""
    from river import bandit, stats

    return River(bandit.UCB(delta=0.3, reward_obj=stats.EWMean(0.1), seed=seed), arms)


def river_epsilon_greedy(arms: int, seed: int) -> Player:
    """Return River's ε-greedy, ε = 0.1, on an exponential moving average of weight 0.1, after each arm once."""
    from river import bandit, stats

    return River(bandit.EpsilonGreedy(epsilon=0.1, reward_obj=stats.EWMean(0.1), burn_in=1, seed=seed), arms)


def mabwiser_ucb1(arms: int, seed: int) -> Player:
    """Return MABWiser's UCB1, α = 1 (its default)."""
    from mabwiser.mab import MAB, LearningPolicy

    return MabWiser(MAB(list(range(arms)), LearningPolicy.UCB1(alpha=1.0), seed=seed), arms)


def mabwiser_epsilon_greedy(arms: int, seed: int) -> Player:
    """Return MABWiser's ε-greedy, ε = 0.1 (its default)."""
    from mabwiser.mab import MAB, LearningPolicy

    return MabWiser(MAB(list(range(arms)), LearningPolicy.EpsilonGreedy(epsilon=0.1), seed=seed), arms)


# The libraries are imported on use: they take seconds to load.
PEERS: dict[str, Callable[[int, int], Player]] = {
    "river_ucb": river_ucb,
    "river_epsilon_greedy": river_epsilon_greedy,
    "mabwiser_ucb1": mabwiser_ucb1,
    "mabwiser_epsilon_greedy": mabwiser_epsilon_greedy,
}


def player(name: str, arms: int, seed: int) -> Player:
    """Return a player by name: one of our policies or of PEERS."""
    return PEERS[name](arms, seed) if name in PEERS else PolicyPlayer(build(name, {}, arms), arms, seed)
