"""``d_ucb``: upper confidence bounds with discounted rewards."""

from __future__ import annotations

import math

import numpy as np

from bandit_server.bandit.estimators import DiscountedMean
from bandit_server.bandit.policy.index_policy import IndexFunction, IndexPolicy, ucb_index
from bandit_server.bandit.policy.options import fraction, number


class DiscountedUCB(IndexPolicy):
    """D-UCB.

    Kocsis & Szepesvári 2006; Garivier & Moulines, "On Upper-Confidence Bound Policies for Switching Bandit Problems",
    ALT 2011. With γ^age as the weight of a reward, N_k the sum of arm k's, n the sum of all, and r̄_k the arm's mean
    with these weights, the arm with the highest

        r̄_k + 2B·√(ξ·log(n) / N_k)        is played.

    The paper's rewards lie in [0, B]. Here B = σ, half of the B of `sw_ucb`, so that both bounds are equally wide for
    the same ξ; with B = 2σ it explores far too much.

    Args:
        arms: The number of arms.
        gamma: γ, in (0, 1).
        xi: ξ; 0 to 100.

    Raises:
        ValueError: An option is out of range.
    """

    def __init__(self, arms: int, *, gamma: float = 0.99, xi: float = 0.5) -> None:
        super().__init__(arms, DiscountedMean(arms, fraction("gamma", gamma)))
        self._xi = number("xi", xi, 0, 100)

    def index_function(self, rng: np.random.Generator) -> IndexFunction:
        """Return the current index function."""
        mean, count = self.estimates()
        log = math.log(max(float(count.sum()), 1.0))
        return ucb_index(mean, count, width=2 * self.sigma * math.sqrt(self._xi * log))
