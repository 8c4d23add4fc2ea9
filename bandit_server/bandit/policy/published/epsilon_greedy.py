"""``epsilon_greedy``: mostly the arm that has paid most lately, sometimes any."""

from __future__ import annotations

import numpy as np

from bandit_server.bandit.estimators import Average
from bandit_server.bandit.policy.index_policy import Score, Scored
from bandit_server.bandit.policy.options import number
from bandit_server.bandit.posterior import Floats


class EpsilonGreedy(Scored):
    """ε-greedy on exponential moving averages (Sutton & Barto, *Reinforcement Learning*, 2nd ed. 2018, ch. 2.2, 2.5).

        m_k ← m_k + α·(r − m_k);        with probability ε any arm, else the one with the highest m_k.

    An arm's mean begins as the plain average of its rewards, until 1/n is below α.

    Args:
        arms: How many there are.
        epsilon: ε, from 0 to 1.
        alpha: α, from 0 (the average of all rewards) to 1 (the last one).

    Raises:
        ValueError: An option is out of its range.
    """

    def __init__(self, arms: int, *, epsilon: float = 0.1, alpha: float = 0.1) -> None:
        super().__init__(arms, Average(arms, number("alpha", alpha, 0, 1)))
        self._epsilon = number("epsilon", epsilon, 0, 1)

    def scorer(self, rng: np.random.Generator) -> Score:
        """See Scored."""
        mean, _ = self.estimates()

        def score(flying: Floats) -> Floats:
            return rng.random(len(mean)) if rng.random() < self._epsilon else mean

        return score
