"""``kalman_ts``: Thompson sampling on arms that are random walks."""

from __future__ import annotations

from bandit_server.bandit.estimators import RandomWalk
from bandit_server.bandit.policy.index_policy import ThompsonSampling
from bandit_server.bandit.policy.options import number


class KalmanTS(ThompsonSampling):
    """Thompson sampling on a Kalman filter.

    Granmo & Berg, "Solving Non-Stationary Bandit Problems by Random Sampling from Sibling Kalman Filters", IEA/AIE
    2010. Every arm's mean takes a step of variance q·σ² at each pull of the run, whether it is pulled or not. With the
    filtered mean m_k and variance C_k·σ² (estimators.RandomWalk),

        θ_k ~ N(m_k, C_k·σ²),        the arm with the highest θ is played.

    Args:
        arms: The number of arms.
        drift: q, in units of the noise's variance; 0 to 100.

    Raises:
        ValueError: An option is out of range.
    """

    def __init__(self, arms: int, *, drift: float = 0.01) -> None:
        super().__init__(arms, RandomWalk(arms, number("drift", drift, 0, 100)))
