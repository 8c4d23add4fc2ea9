"""The policies by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

from bandit_server.bandit.policy.base import Policy
from bandit_server.bandit.policy.baselines import Fixed, RoundRobin, Uniform
from bandit_server.bandit.policy.optima import Optima
from bandit_server.bandit.policy.published.d_ucb import DiscountedUCB
from bandit_server.bandit.policy.published.discounted_ts import DiscountedTS
from bandit_server.bandit.policy.published.epsilon_greedy import EpsilonGreedy
from bandit_server.bandit.policy.published.fdsw_ts import FdswTS
from bandit_server.bandit.policy.published.kalman_ts import KalmanTS
from bandit_server.bandit.policy.published.raw_ucb import RawUCB
from bandit_server.bandit.policy.published.sw_ucb import SlidingWindowUCB
from bandit_server.bandit.policy.published.thompson import Thompson
from bandit_server.bandit.policy.sliding_window_ts import SlidingWindowTS

__all__ = ["OFFERED", "POLICIES", "Policy", "build"]

# The policies that a server offers, besides `joint` and `fixed:<arm>`.
OFFERED: dict[str, Callable[..., Policy]] = {
    "optima": Optima,
    "uniform": Uniform,
    "round_robin": RoundRobin,
    "sliding_window_ts": SlidingWindowTS,
}

# These and policies from the literature, for comparison: in the library, in simulations and benchmarks.
POLICIES: dict[str, Callable[..., Policy]] = {
    **OFFERED,
    "thompson": Thompson,
    "discounted_ts": DiscountedTS,
    "fdsw_ts": FdswTS,
    "kalman_ts": KalmanTS,
    "sw_ucb": SlidingWindowUCB,
    "d_ucb": DiscountedUCB,
    "raw_ucb": RawUCB,
    "epsilon_greedy": EpsilonGreedy,
}


def build(name: str, options: Mapping[str, float], arms: int, fixed: int | None = None) -> Policy:
    """Return a new policy.

    Args:
        name: The name of the policy, one of POLICIES.
        options: The options by name; absent ones have their defaults.
        arms: The number of arms.
        fixed: Play this arm only; `name` is then used in messages only.

    Raises:
        ValueError: The policy or an option does not exist, or an option has an invalid value.
    """
    if fixed is None and name not in POLICIES:
        raise ValueError(f"there is no policy {name!r}; there are {', '.join(POLICIES)}, fixed:<arm>")
    known_options = [*inspect.signature(POLICIES[name]).parameters][1:] if fixed is None else []
    for option in options:
        if option not in known_options:
            there_are = f"its options are {', '.join(known_options)}" if known_options else "it has none"
            raise ValueError(f"policy {name} has no option {option!r}; {there_are}")
    return POLICIES[name](arms, **options) if fixed is None else Fixed(arms, fixed)
