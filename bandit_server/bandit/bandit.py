"""A bandit without a server, for use as a library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from bandit_server.bandit import serialization
from bandit_server.bandit.policy import Policy, build
from bandit_server.bandit.posterior import ArmPosterior
from bandit_server.bandit.random import Randomness

# The format of `to_dict`. Schema 1, of version 0.1, differs in the names of attributes: old name, new name.
SCHEMA = 2
_RENAMED_SINCE_1 = {"_bank": "_filters", "_units": "_scaler", "evidence": "estimator", "_least": "_min_gain"}


@dataclass(frozen=True, slots=True)
class Pull:
    """The choice of an arm.

    Attributes:
        number: The number of the pull, from 0.
        arm: The index of the arm.
    """

    number: int
    arm: int


class Bandit:
    """Chooses among arms numbered from 0, whose rewards may change, on any scale.

        bandit = Bandit(n_arms=7)
        pull = bandit.select()
        bandit.report(pull, reward)

    Several pulls may be open at once. Their rewards may arrive in any order, or not at all.

    Args:
        n_arms: How many arms there are; at least 1.
        policy: The name of a policy (bandit_server.bandit.policy), or `fixed:<index>`.
        seed: The seed; the same seed and rewards give the same choices.
        options: The policy's options by name.

    Raises:
        ValueError: The policy or an option does not exist, or n_arms is below 1.
    """

    def __init__(
        self, n_arms: int, policy: str = "optima", seed: int = 0, options: Mapping[str, float] | None = None
    ) -> None:
        if n_arms < 1:
            raise ValueError(f"n_arms is {n_arms}; expected at least one arm")
        self.n_arms = n_arms
        self._arguments = {"n_arms": n_arms, "policy": policy, "seed": seed, "options": dict(options or {})}
        self._policy: Policy = build(policy, dict(options or {}), n_arms, fixed=_fixed_arm(policy, n_arms))
        self._randomness = Randomness(seed)
        self._next = 0
        self._open: dict[int, int] = {}

    def select(self, active: Sequence[int] | None = None) -> Pull:
        """Choose the arm to pull now.

        Args:
            active: The arms to choose from; all arms by default.

        Raises:
            ValueError: `active` is empty or contains an arm that does not exist.
        """
        if active is not None and not (active and all(0 <= arm < self.n_arms for arm in active)):
            raise ValueError(f"active is {list(active)}; expected some of the arms 0 to {self.n_arms - 1}")
        arms = range(self.n_arms) if active is None else active
        rng = self._randomness.at("", self._next)
        arm = self._policy.choose(in_flight=list(self._open.values()), active=arms, rng=rng)[0]
        pull = Pull(self._next, arm)
        self._policy.pulled(pull.number, arm)
        self._open[pull.number] = arm
        self._next += 1
        return pull

    def report(self, pull: Pull, reward: float) -> None:
        """Report the reward of an open pull.

        Raises:
            ValueError: The pull is not open, or the reward is not finite.
        """
        if self._open.get(pull.number) != pull.arm:
            raise ValueError(f"pull {pull.number} of arm {pull.arm} is not open: never selected, or already reported")
        if not math.isfinite(reward):
            raise ValueError(f"the reward is {reward}; expected a finite number")
        del self._open[pull.number]
        self._policy.rewarded(pull.number, pull.arm, "", float(reward))

    def abandon(self, pull: Pull) -> None:
        """Close a pull without a reward."""
        self._open.pop(pull.number, None)

    def posterior(self) -> list[ArmPosterior]:
        """Return the belief about each arm; empty before the first reward and for policies that do not learn."""
        return self._policy.posterior()

    def to_dict(self) -> dict[str, Any]:
        """Return the state as JSON values. Its size does not grow with the number of pulls."""
        return {
            "schema": SCHEMA,
            **self._arguments,
            "next": self._next,
            "open": sorted(self._open.items()),
            "remembered": serialization.dump(self._policy),
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Self:
        """Restore a bandit from the result of `to_dict`; it continues as the saved one would have.

        Raises:
            ValueError: `saved` was written by a newer version, or not by `to_dict`.
        """
        schema = saved.get("schema")
        if schema not in (1, SCHEMA):
            raise ValueError(f"the saved bandit has schema {schema!r}; this version reads schemas 1 to {SCHEMA}")
        state = _with_new_names(saved["remembered"]) if schema == 1 else saved["remembered"]
        bandit = cls(saved["n_arms"], saved["policy"], saved["seed"], saved["options"])
        serialization.load(bandit._policy, state)
        bandit._next = saved["next"]
        bandit._open = dict(saved["open"])
        return bandit


def _with_new_names(dumped: Any) -> Any:
    """Return the state of a policy in schema 1 with the attribute names of schema 2."""
    match dumped:
        case {"object": dict(attributes)}:
            items = attributes.items()
            return {"object": {_RENAMED_SINCE_1.get(name, name): _with_new_names(item) for name, item in items}}
    return dumped


def _fixed_arm(policy: str, arms: int) -> int | None:
    name, _, arm = policy.partition(":")
    if name != "fixed":
        return None
    if not (arm.isdecimal() and int(arm) < arms):
        raise ValueError(f"policy {policy}: expected fixed:<arm> with one of the arms 0 to {arms - 1}, not {arm!r}")
    return int(arm)
