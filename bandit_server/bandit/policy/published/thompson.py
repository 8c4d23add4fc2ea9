"""``thompson``: Thompson sampling on all rewards."""

from __future__ import annotations

from bandit_server.bandit.estimators import Average
from bandit_server.bandit.policy.index_policy import ThompsonSampling


class Thompson(ThompsonSampling):
    """Thompson sampling with Gaussian noise for arms that do not change.

    Agrawal & Goyal, "Further Optimal Regret Bounds for Thompson Sampling", AISTATS 2013, without the prior's
    pseudo-reward. With n_k rewards of arm k, and r̄_k their mean,

        θ_k ~ N(r̄_k, σ²/n_k),        the arm with the highest θ is played.

    Args:
        arms: The number of arms.
    """

    def __init__(self, arms: int) -> None:
        super().__init__(arms, Average(arms))
