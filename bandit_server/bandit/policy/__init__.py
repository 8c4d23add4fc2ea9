"""The policies, by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

from bandit_server.bandit.policy.base import Policy
from bandit_server.bandit.policy.optima import Optima
from bandit_server.bandit.policy.plain import Fixed, RoundRobin, Uniform
from bandit_server.bandit.policy.sliding_window_ts import SlidingWindowTS
from bandit_server.bandit.policy.thompson import Thompson

__all__ = ["POLICIES", "Policy", "build"]

POLICIES: dict[str, Callable[..., Policy]] = {
    "optima": Optima,
    "uniform": Uniform,
    "round_robin": RoundRobin,
    "sliding_window_ts": SlidingWindowTS,
    "thompson": Thompson,
}


def build(name: str, options: Mapping[str, float], arms: int, fixed: int | None = None) -> Policy:
    """A policy that knows nothing yet.

    Args:
        name: Its name, one of POLICIES.
        options: Its options by name; those absent have their defaults.
        arms: How many arms there are.
        fixed: Play this arm and no other; `name` is then only used in messages.

    Raises:
        ValueError: There is no such policy or option; the message says which there are.
    """
    if fixed is None and name not in POLICIES:
        known = ", ".join([*POLICIES, "joint", "fixed:<arm>"])
        raise ValueError(f"there is no policy {name!r}; there are {known}")
    known_options = [*inspect.signature(POLICIES[name]).parameters][1:] if fixed is None else []
    for option in options:
        if option not in known_options:
            there_are = f"its options are {', '.join(known_options)}" if known_options else "it has none"
            raise ValueError(f"policy {name} has no option {option!r}; {there_are}")
    return POLICIES[name](arms, **options) if fixed is None else Fixed(arms, fixed)
