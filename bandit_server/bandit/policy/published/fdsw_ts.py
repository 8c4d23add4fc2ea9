"""``fdsw_ts``: Thompson sampling with two memories, one discounted and one cut off."""

from __future__ import annotations

import numpy as np

from bandit_server.bandit.estimators import Discounted, OwnWindow
from bandit_server.bandit.policy.index_policy import Score, Scored, drawn
from bandit_server.bandit.policy.options import LONGEST_WINDOW, number, share, whole
from bandit_server.bandit.posterior import Floats


class Fdsw(Discounted):
    """Both memories. What they tell of a mean is what the discounted one does."""

    def __init__(self, arms: int, gamma: float, window: int) -> None:
        super().__init__(arms, gamma)
        self.own = OwnWindow(arms, window)

    def put(self, arm: int, age: int, value: float) -> None:
        """See Evidence."""
        super().put(arm, age, value)
        self.own.put(arm, age, value)

    def rescale(self, factor: float) -> None:
        """See Evidence."""
        super().rescale(factor)
        self.own.rescale(factor)


class FdswTS(Scored):
    """f-Discounted-Sliding-Window Thompson sampling (Cavenaghi et al., "Non Stationary Multi-Armed Bandit: Empirical
    Evaluation of a New Concept Drift-Aware Algorithm", Entropy 2021) with Gaussian noise.

    Two θ are drawn for each arm, and the arm with the highest f(θ, θ') is played:

        θ_k  ~ N(r̄_k, σ²/N_k)         from all its rewards, weighted γ^age, with N_k the sum of weights,
        θ'_k ~ N(r̄'_k, σ²/N'_k)       from its own last `window` rewards, N'_k in number.

    The paper has f = min (pessimistic), mean and max (optimistic); here f = (1 − a)·min + a·max, which is those three
    at a = 0, 1/2 and 1.

    Args:
        arms: How many there are.
        gamma: γ, in (0, 1).
        window: Rewards of the arm itself; 1 to 10,000.
        optimism: a, from 0 to 1.

    Raises:
        ValueError: An option is out of its range.
    """

    evidence: Fdsw

    def __init__(self, arms: int, *, gamma: float = 0.99, window: float = 10, optimism: float = 0.5) -> None:
        super().__init__(arms, Fdsw(arms, share("gamma", gamma), whole("window", window, 1, LONGEST_WINDOW)))
        self._optimism = number("optimism", optimism, 0, 1)

    def scorer(self, rng: np.random.Generator) -> Score:
        """See Scored."""
        mean, count = self.estimates()
        own_mean, own_count = self.evidence.own.estimates()
        discounted = drawn(mean, count, self.sigma, rng)
        own = drawn(np.where(own_count > 0, own_mean, mean), own_count, self.sigma, rng)

        def score(flying: Floats) -> Floats:
            first, second = discounted(flying), own(flying)
            low, high = np.minimum(first, second), np.maximum(first, second)
            return np.asarray(low + self._optimism * (high - low))

        return score
