"""``sliding_window_ts``: Thompson sampling that sees the last pulls only."""

from __future__ import annotations

from bandit_server.bandit.estimators import Window
from bandit_server.bandit.policy.index_policy import ThompsonSampling
from bandit_server.bandit.policy.options import LONGEST_WINDOW, whole


class SlidingWindowTS(ThompsonSampling):
    """Sliding-window Thompson sampling (Trovò et al., "Sliding-Window Thompson Sampling for Non-Stationary Settings",
    JAIR 2020) with Gaussian noise.

    With N_k rewards of arm k among the run's last `window` pulls, and r̄_k their mean,

        θ_k ~ N(r̄_k, σ²/N_k),        the arm with the highest θ is played; before that, arms with N_k = 0.

    Args:
        arms: How many there are.
        window: Pulls of the run, whichever arm's; 1 to 10,000.

    Raises:
        ValueError: An option is out of its range.
    """

    def __init__(self, arms: int, *, window: float = 100) -> None:
        super().__init__(arms, Window(arms, whole("window", window, 1, LONGEST_WINDOW)))
