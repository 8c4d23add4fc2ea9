"""Each arm's last rewards, in the order of their pulls. All that a policy ever sees of a run."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, order=True)
class Reward:
    """What a pull brought.

    Attributes:
        number: The pull's number in the run; rewards are ordered by it, not by when they arrived.
        value: The reward, finite.
        worker: Who earned it.
    """

    number: int
    value: float = field(compare=False)
    worker: str = field(compare=False, default="")


class History:
    """The last rewards of every arm.

    Attributes:
        window: Rewards kept for each arm.
        rewards: By arm, oldest pull first.
        pulls: How often each arm was pulled, by arm; discarded pulls do not count.
        now: One more than the highest pull number so far: the age of pull n is now − 1 − n.
        last: The arm pulled last; None before the first pull.
    """

    def __init__(self, arms: int, window: int) -> None:
        if arms < 1 or window < 1:
            raise ValueError(f"a history has at least one arm and a window of at least 1, not {arms} and {window}")
        self.window = window
        self.rewards: list[list[Reward]] = [[] for _ in range(arms)]
        self.pulls = [0] * arms
        self.now = 0
        self.last: int | None = None

    def __len__(self) -> int:
        """The number of arms."""
        return len(self.rewards)

    def pulled(self, number: int, arm: int) -> None:
        """An arm was pulled."""
        self.pulls[arm] += 1
        if number >= self.now:
            self.now = number + 1
            self.last = arm

    def discarded(self, number: int, arm: int) -> None:
        """A pull will bring no reward: it counts as if it had not been."""
        self.pulls[arm] -= 1

    def rewarded(self, number: int, arm: int, worker: str, reward: float) -> None:
        """A pull has brought its reward, maybe later than others after it."""
        known = self.rewards[arm]
        insort(known, Reward(number, reward, worker))
        del known[: -self.window]

    def worst(self, arm: int) -> float:
        """The worst reward in the arm's window, else in all windows, else 0: what a round that diverged is charged."""
        known = self.rewards[arm] or [reward for rewards in self.rewards for reward in rewards]
        return min((reward.value for reward in known), default=0.0)
