"""Each arm's last rewards, whatever the policy: what a round that diverged is charged."""

from __future__ import annotations

from bisect import insort
from operator import attrgetter
from typing import NamedTuple

# Rewards kept for each arm.
WINDOW = 20


class Reward(NamedTuple):
    """What a pull brought.

    Attributes:
        number: The pull's number in the run; rewards are ordered by it, not by when they arrived.
        value: The reward, finite.
        worker: Who earned it.
    """

    number: int
    value: float
    worker: str


_number = attrgetter("number")


class History:
    """The last rewards of every arm. `rewards`: by arm, oldest pull first."""

    def __init__(self, arms: int) -> None:
        self.rewards: list[list[Reward]] = [[] for _ in range(arms)]

    def rewarded(self, number: int, arm: int, worker: str, reward: float) -> None:
        """A pull has brought its reward, maybe later than others after it."""
        known = self.rewards[arm]
        insort(known, Reward(number, reward, worker), key=_number)
        if len(known) > WINDOW:
            del known[0]

    def worst(self, arm: int) -> float:
        """The worst of the arm's last rewards, else of all arms', else 0."""
        known = self.rewards[arm] or [reward for rewards in self.rewards for reward in rewards]
        return min((reward.value for reward in known), default=0.0)
