"""``sliding_window_ts``: Thompson sampling on the last pulls of the run."""

from __future__ import annotations

from bandit_server.bandit.estimators import SlidingWindow
from bandit_server.bandit.policy.index_policy import ThompsonSampling
from bandit_server.bandit.policy.options import MAX_WINDOW, whole_number


class SlidingWindowTS(ThompsonSampling):
    """Sliding-window Thompson sampling with Gaussian noise.

    Trovò et al., "Sliding-Window Thompson Sampling for Non-Stationary Settings", JAIR 2020. With N_k rewards of arm k
    among the run's last `window` pulls, and r̄_k their mean,

        θ_k ~ N(r̄_k, σ²/N_k),        the arm with the highest θ is played, after the arms with N_k = 0.

    Args:
        arms: The number of arms.
        window: The number of pulls of the run, of any arm; 1 to 10,000.

    Raises:
        ValueError: An option is out of range.
    """

    def __init__(self, arms: int, *, window: float = 100) -> None:
        super().__init__(arms, SlidingWindow(arms, whole_number("window", window, 1, MAX_WINDOW)))
