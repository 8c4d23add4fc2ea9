"""``sw_ucb``: upper confidence bounds on the last pulls of the run."""

from __future__ import annotations

import math

import numpy as np

from bandit_server.bandit.estimators import SlidingWindow
from bandit_server.bandit.policy.index_policy import IndexFunction, IndexPolicy, ucb_index
from bandit_server.bandit.policy.options import MAX_WINDOW, number, whole_number


class SlidingWindowUCB(IndexPolicy):
    """SW-UCB (Garivier & Moulines, "On Upper-Confidence Bound Policies for Switching Bandit Problems", ALT 2011).

    With N_k rewards of arm k among the run's last `window` = τ pulls, r̄_k their mean and t the pulls so far, the arm
    with the highest

        r̄_k + B·√(ξ·log(min(t, τ)) / N_k)        is played, after the arms with N_k = 0.

    The paper's rewards lie in [0, B], so that their σ is at most B/2: here B = 2σ.

    Args:
        arms: The number of arms.
        window: τ, the number of pulls of the run, of any arm; 1 to 10,000.
        xi: ξ; 0 to 100.

    Raises:
        ValueError: An option is out of range.
    """

    def __init__(self, arms: int, *, window: float = 100, xi: float = 0.5) -> None:
        self._size = whole_number("window", window, 1, MAX_WINDOW)
        super().__init__(arms, SlidingWindow(arms, self._size))
        self._xi = number("xi", xi, 0, 100)

    def index_function(self, rng: np.random.Generator) -> IndexFunction:
        """Return the current index function."""
        log = math.log(max(min(self.pulls, self._size), 1))
        return ucb_index(*self.estimates(), width=2 * self.sigma * math.sqrt(self._xi * log))
