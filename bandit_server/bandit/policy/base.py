"""What a policy is: a pure function from history to the next arm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from bandit_server.bandit.history import History
from bandit_server.bandit.posterior import ArmPosterior

# Rewards kept for each arm under policies that do not look at them: a round that diverged is charged the worst.
WINDOW = 20


class Policy(Protocol):
    """A rule that chooses arms.

    Attributes:
        window: Rewards of each arm that it needs.
        learns: Whether rewards change its choices.
    """

    window: int
    learns: bool

    def choose(
        self,
        history: History,
        *,
        in_flight: Sequence[int],
        active: Sequence[int],
        rng: np.random.Generator,
        count: int,
    ) -> list[int]:
        """The next `count` arms, if no reward comes in between.

        Args:
            history: What is known.
            in_flight: Arms of pulls whose rewards are still to come.
            active: The arms to choose from, in order; at least one.
            rng: The only source of randomness.
            count: How many.
        """
        ...

    def posterior(self, history: History) -> list[ArmPosterior]:
        """The belief about each arm; none at all before the first reward, and if the policy does not learn."""
        ...
