"""The policies by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

from bandit_server.bandit.policy.base import Policy
from bandit_server.bandit.policy.baselines import Fixed, RoundRobin, Uniform
from bandit_server.bandit.policy.optima import Optima
from bandit_server.bandit.policy.sliding_window_ts import SlidingWindowTS

__all__ = ["SERVED", "Policy", "build"]

# The policies that a server offers, besides `joint` and `fixed:<arm>`. Policies from the literature are in published/.
SERVED: dict[str, Callable[..., Policy]] = {
    "optima": Optima,
    "uniform": Uniform,
    "round_robin": RoundRobin,
    "sliding_window_ts": SlidingWindowTS,
}


def build(name: str, options: Mapping[str, float], arms: int, fixed: int | None = None) -> Policy:
    """Return a new policy.

    Args:
        name: The name of the policy, one of published.POLICIES.
        options: The options by name; absent ones have their defaults.
        arms: The number of arms.
        fixed: Play this arm only; `name` is then used in messages only.

    Raises:
        ValueError: The policy or an option does not exist, or an option has an invalid value.
    """
    policies = SERVED
    if fixed is None and name not in SERVED:
        # Only here: a server that folds runs does not import the laboratory.
        from bandit_server.bandit.policy.published import POLICIES

        if name not in POLICIES:
            raise ValueError(f"there is no policy {name!r}; there are {', '.join(POLICIES)}, fixed:<arm>")
        policies = POLICIES
    known_options = [*inspect.signature(policies[name]).parameters][1:] if fixed is None else []
    for option in options:
        if option not in known_options:
            there_are = f"its options are {', '.join(known_options)}" if known_options else "it has none"
            raise ValueError(f"policy {name} has no option {option!r}; {there_are}")
    return policies[name](arms, **options) if fixed is None else Fixed(arms, fixed)
