"""What a policy is: told of pulls and rewards in the order of the run's events, it says which arm is next.

No clock, no I/O, and no randomness but what it is given: the same events and the same generator, the same choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from bandit_server.bandit.posterior import ArmPosterior


class Policy(Protocol):
    """A rule that chooses arms, with what it remembers. `learns`: whether rewards change its choices."""

    learns: bool

    def pulled(self, number: int, arm: int) -> None:
        """Pull `number` of the run is this arm's; the numbers ascend."""
        ...

    def rewarded(self, number: int, arm: int, worker: str, reward: float) -> None:
        """What a pull brought; maybe later than others after it. `reward` is finite."""
        ...

    def choose(
        self, *, in_flight: Sequence[int], active: Sequence[int], rng: np.random.Generator, count: int = 1
    ) -> list[int]:
        """The next `count` arms, if no reward comes in between.

        Args:
            in_flight: Arms of pulls whose rewards are still to come.
            active: The arms to choose from, in order; at least one.
            rng: The only source of randomness.
            count: How many.
        """
        ...

    def posterior(self) -> list[ArmPosterior]:
        """The belief about each arm; none at all before the first reward, and if the policy does not learn."""
        ...
