"""``fdsw_ts``: Thompson sampling with two estimators, one discounted and one with a window."""

from __future__ import annotations

import numpy as np

from bandit_server.bandit.estimators import DiscountedMean, PerArmWindow
from bandit_server.bandit.policy.index_policy import IndexFunction, IndexPolicy, sampled_index
from bandit_server.bandit.policy.options import MAX_WINDOW, fraction, number, whole_number
from bandit_server.bandit.posterior import Floats


class FdswEstimator(DiscountedMean):
    """Both estimators. `estimates` returns those of the discounted one."""

    def __init__(self, arms: int, gamma: float, window: int) -> None:
        super().__init__(arms, gamma)
        self.own = PerArmWindow(arms, window)

    def add(self, arm: int, age: int, value: float) -> None:
        """Add the reward of a pull."""
        super().add(arm, age, value)
        self.own.add(arm, age, value)

    def rescale(self, factor: float) -> None:
        """Multiply all rewards so far by a factor."""
        super().rescale(factor)
        self.own.rescale(factor)


class FdswTS(IndexPolicy):
    """f-Discounted-Sliding-Window Thompson sampling with Gaussian noise.

    Cavenaghi et al., "Non Stationary Multi-Armed Bandit: Empirical Evaluation of a New Concept Drift-Aware Algorithm",
    Entropy 2021. Two θ are drawn for each arm, and the arm with the highest f(θ, θ') is played:

        θ_k  ~ N(r̄_k, σ²/N_k)         from all its rewards, weighted γ^age, with N_k the sum of weights,
        θ'_k ~ N(r̄'_k, σ²/N'_k)       from its own last `window` rewards, N'_k in number.

    The paper has f = min (pessimistic), mean and max (optimistic). Here f = (1 − a)·min + a·max, which equals them at
    a = 0, 1/2 and 1.

    Args:
        arms: The number of arms.
        gamma: γ, in (0, 1).
        window: The number of the arm's own rewards; 1 to 10,000.
        optimism: a, from 0 to 1.

    Raises:
        ValueError: An option is out of range.
    """

    estimator: FdswEstimator

    def __init__(self, arms: int, *, gamma: float = 0.99, window: float = 10, optimism: float = 0.5) -> None:
        super().__init__(
            arms, FdswEstimator(arms, fraction("gamma", gamma), whole_number("window", window, 1, MAX_WINDOW))
        )
        self._optimism = number("optimism", optimism, 0, 1)

    def index_function(self, rng: np.random.Generator) -> IndexFunction:
        """Return the current index function."""
        mean, count = self.estimates()
        own_mean, own_count = self.estimator.own.estimates()
        discounted = sampled_index(mean, count, self.sigma, rng)
        own = sampled_index(np.where(own_count > 0, own_mean, mean), own_count, self.sigma, rng)

        def index(flying: Floats) -> Floats:
            first, second = discounted(flying), own(flying)
            low, high = np.minimum(first, second), np.maximum(first, second)
            return np.asarray(low + self._optimism * (high - low))

        return index
