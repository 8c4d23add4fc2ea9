"""The last rewards of each arm, stored under every policy: a diverged round gets the worst of them as its reward."""

from __future__ import annotations

from bisect import insort
from operator import attrgetter
from typing import NamedTuple

# Rewards stored for each arm.
WINDOW = 20


class Reward(NamedTuple):
    """The reward of a pull.

    Attributes:
        number: The pull's number in the run. Rewards are ordered by it, not by arrival.
        value: The reward; finite.
        worker: The worker that made the pull.
    """

    number: int
    value: float
    worker: str


_number = attrgetter("number")


class History:
    """The last rewards of every arm.

    Attributes:
        rewards: The last WINDOW rewards by arm, ordered by pull number.
    """

    def __init__(self, arms: int) -> None:
        self.rewards: list[list[Reward]] = [[] for _ in range(arms)]

    def rewarded(self, number: int, arm: int, worker: str, reward: float) -> None:
        """Add the reward of a pull. Rewards may arrive out of order."""
        rewards = self.rewards[arm]
        insort(rewards, Reward(number, reward, worker), key=_number)
        if len(rewards) > WINDOW:
            del rewards[0]

    def worst(self, arm: int) -> float:
        """Return the lowest of the arm's last rewards; of all arms' if it has none; 0 if there are none at all."""
        candidates = self.rewards[arm] or [reward for rewards in self.rewards for reward in rewards]
        return min((reward.value for reward in candidates), default=0.0)
