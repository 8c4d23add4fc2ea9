"""``sw_ucb``: upper confidence bounds from the last pulls."""

from __future__ import annotations

import math

import numpy as np

from bandit_server.bandit.estimators import Window
from bandit_server.bandit.policy.index_policy import Score, Scored, bounds
from bandit_server.bandit.policy.options import LONGEST_WINDOW, number, whole


class SlidingWindowUCB(Scored):
    """SW-UCB (Garivier & Moulines, "On Upper-Confidence Bound Policies for Switching Bandit Problems", ALT 2011).

    With N_k rewards of arm k among the run's last `window` = τ pulls, r̄_k their mean and t the pulls so far, the arm
    with the highest

        r̄_k + B·√(ξ·log(min(t, τ)) / N_k)        is played; before that, arms with N_k = 0.

    The paper's rewards lie in [0, B], so that their σ is at most B/2: here B = 2σ.

    Args:
        arms: How many there are.
        window: τ, pulls of the run, whichever arm's; 1 to 10,000.
        xi: ξ; 0 to 100.

    Raises:
        ValueError: An option is out of its range.
    """

    def __init__(self, arms: int, *, window: float = 100, xi: float = 0.5) -> None:
        self._size = whole("window", window, 1, LONGEST_WINDOW)
        super().__init__(arms, Window(arms, self._size))
        self._xi = number("xi", xi, 0, 100)

    def scorer(self, rng: np.random.Generator) -> Score:
        """See Scored."""
        log = math.log(max(min(self.pulls, self._size), 1))
        return bounds(*self.estimates(), width=2 * self.sigma * math.sqrt(self._xi * log))
