"""``epsilon_greedy``: mostly the arm with the highest recent mean, sometimes a random one."""

from __future__ import annotations

import numpy as np

from bandit_server.bandit.estimators import Average
from bandit_server.bandit.policy.index_policy import IndexFunction, IndexPolicy
from bandit_server.bandit.policy.options import number
from bandit_server.bandit.posterior import Floats


class EpsilonGreedy(IndexPolicy):
    """ε-greedy on exponential moving averages (Sutton & Barto, *Reinforcement Learning*, 2nd ed. 2018, ch. 2.2, 2.5).

        m_k ← m_k + α·(r − m_k);        with probability ε a random arm, else the one with the highest m_k.

    An arm's mean is the plain average of its rewards until 1/n is below α.

    Args:
        arms: The number of arms.
        epsilon: ε, from 0 to 1.
        alpha: α, from 0 (the average of all rewards) to 1 (the last one).

    Raises:
        ValueError: An option is out of range.
    """

    def __init__(self, arms: int, *, epsilon: float = 0.1, alpha: float = 0.1) -> None:
        super().__init__(arms, Average(arms, number("alpha", alpha, 0, 1)))
        self._epsilon = number("epsilon", epsilon, 0, 1)

    def index_function(self, rng: np.random.Generator) -> IndexFunction:
        """Return the current index function."""
        mean, _ = self.estimates()

        def index(flying: Floats) -> Floats:
            return rng.random(len(mean)) if rng.random() < self._epsilon else mean

        return index
