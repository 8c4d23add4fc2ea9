"""The interface of a policy: it receives pulls and rewards in the order of the run's events, and chooses arms.

A policy has no clock, no I/O and no randomness of its own: the same events and generator give the same choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from bandit_server.bandit.posterior import ArmPosterior


class Policy(Protocol):
    """A rule that chooses arms, and its state.

    Attributes:
        learns: Whether rewards change its choices.
    """

    learns: bool

    def pulled(self, number: int, arm: int) -> None:
        """Record that pull `number` of the run is of this arm; the numbers ascend."""
        ...

    def rewarded(self, number: int, arm: int, worker: str, reward: float) -> None:
        """Record the finite reward of a pull; it may arrive after the rewards of later pulls."""
        ...

    def choose(
        self, *, in_flight: Sequence[int], active: Sequence[int], rng: np.random.Generator, count: int = 1
    ) -> list[int]:
        """Choose the next `count` arms, assuming that no reward arrives in between.

        Args:
            in_flight: The arms of pulls without a reward so far.
            active: The arms to choose from, in order; at least one.
            rng: The only source of randomness.
            count: The number of choices.
        """
        ...

    def posterior(self) -> list[ArmPosterior]:
        """Return the belief about each arm; empty before the first reward, and if the policy does not learn."""
        ...
