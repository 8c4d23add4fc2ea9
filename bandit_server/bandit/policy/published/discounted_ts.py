"""``discounted_ts``: Thompson sampling with discounted rewards."""

from __future__ import annotations

from bandit_server.bandit.estimators import DiscountedMean
from bandit_server.bandit.policy.index_policy import ThompsonSampling
from bandit_server.bandit.policy.options import fraction


class DiscountedTS(ThompsonSampling):
    """Discounted Thompson sampling.

    Raj & Kalyani, "Taming Non-stationary Bandits: A Bayesian Approach", 2017 (dTS); with Gaussian noise: Qi et al.,
    "Discounted Thompson Sampling for Non-Stationary Bandit Problems", 2023.

    At every pull of the run the rewards of all arms lose the same fraction of their weight, so that an arm that is not
    played keeps its mean and becomes less certain. With γ^age as the weight of a reward, N_k their sum for arm k, and
    r̄_k the mean with these weights,

        θ_k ~ N(r̄_k, σ²/N_k),        the arm with the highest θ is played.

    Args:
        arms: The number of arms.
        gamma: γ, in (0, 1).

    Raises:
        ValueError: An option is out of range.
    """

    def __init__(self, arms: int, *, gamma: float = 0.99) -> None:
        super().__init__(arms, DiscountedMean(arms, fraction("gamma", gamma)))
