"""Policies from the literature, for comparison in the library, simulations and benchmarks; not served."""

from __future__ import annotations

from collections.abc import Callable

from bandit_server.bandit.policy import SERVED, Policy
from bandit_server.bandit.policy.published.d_ucb import DiscountedUCB
from bandit_server.bandit.policy.published.discounted_ts import DiscountedTS
from bandit_server.bandit.policy.published.epsilon_greedy import EpsilonGreedy
from bandit_server.bandit.policy.published.fdsw_ts import FdswTS
from bandit_server.bandit.policy.published.kalman_ts import KalmanTS
from bandit_server.bandit.policy.published.raw_ucb import RawUCB
from bandit_server.bandit.policy.published.sw_ucb import SlidingWindowUCB
from bandit_server.bandit.policy.published.thompson import Thompson

__all__ = ["POLICIES"]

# All policies: those that a server offers, and these.
POLICIES: dict[str, Callable[..., Policy]] = {
    **SERVED,
    "thompson": Thompson,
    "discounted_ts": DiscountedTS,
    "fdsw_ts": FdswTS,
    "kalman_ts": KalmanTS,
    "sw_ucb": SlidingWindowUCB,
    "d_ucb": DiscountedUCB,
    "raw_ucb": RawUCB,
    "epsilon_greedy": EpsilonGreedy,
}
