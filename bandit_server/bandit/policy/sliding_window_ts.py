"""``sliding_window_ts``: Thompson sampling that sees the last pulls only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bandit_server.bandit.policy.options import whole
from bandit_server.bandit.policy.scored import Scored, gaussian_scorer
from bandit_server.bandit.posterior import Floats
from bandit_server.bandit.window import Window

LONGEST = 10_000


class SlidingWindowTS(Scored):
    """Sliding-window Thompson sampling with Gaussian noise (Trovò et al., "Sliding-Window Thompson Sampling for
    Non-Stationary Settings", JAIR 2020).

    With N_k rewards of arm k among the run's last `window` pulls, and r̄_k their mean,

        θ_k ~ N(r̄_k, σ²/N_k),        the arm with the highest θ is played; one with N_k = 0 first.

    σ is learned (noise.py), where the paper is told it.

    Args:
        arms: How many there are.
        window: Pulls of the run, whichever arm's.

    Raises:
        ValueError: An option is out of its range.
    """

    def __init__(self, arms: int, *, window: float = 100) -> None:
        super().__init__(arms)
        self._window = Window(arms, whole("window", window, 1, LONGEST))

    def learn(self, arm: int, age: int, value: float) -> None:
        """See Scored."""
        self._window.put(arm, age, value)

    def rescale(self, factor: float) -> None:
        """See Scored."""
        self._window.rescale(factor)

    def forget(self, pulls: int) -> None:
        """See Scored."""
        self._window.slide(pulls)

    def estimates(self) -> tuple[Floats, Floats]:
        """See Scored."""
        return self._window.estimates()

    def scorer(self, rng: np.random.Generator) -> Callable[[Floats], Floats]:
        """See Scored."""
        return gaussian_scorer(*self.estimates(), self.sigma, rng)
