"""``thompson``: Thompson sampling that never forgets."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bandit_server.bandit.policy.scored import Scored, gaussian_scorer
from bandit_server.bandit.posterior import Floats


class Thompson(Scored):
    """Thompson sampling with Gaussian noise, for arms that do not change (Agrawal & Goyal, "Further Optimal Regret
    Bounds for Thompson Sampling", AISTATS 2013, their Gaussian case without the prior's pseudo-reward).

    With N_k rewards of arm k, and r̄_k their mean,

        θ_k ~ N(r̄_k, σ²/N_k),        the arm with the highest θ is played.

    σ is learned (noise.py).

    Args:
        arms: How many there are.
    """

    def __init__(self, arms: int) -> None:
        super().__init__(arms)
        self._mean = np.zeros(arms)
        self._count = np.zeros(arms)

    def learn(self, arm: int, age: int, value: float) -> None:
        """See Scored."""
        self._count[arm] += 1
        self._mean[arm] += (value - self._mean[arm]) / self._count[arm]

    def rescale(self, factor: float) -> None:
        """See Scored."""
        self._mean *= factor

    def forget(self, pulls: int) -> None:
        """Nothing is."""

    def estimates(self) -> tuple[Floats, Floats]:
        """See Scored."""
        return self._mean, self._count

    def scorer(self, rng: np.random.Generator) -> Callable[[Floats], Floats]:
        """See Scored."""
        return gaussian_scorer(*self.estimates(), self.sigma, rng)
