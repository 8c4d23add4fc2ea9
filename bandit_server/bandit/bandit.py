"""A bandit without a server, for whoever has arms of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from bandit_server.bandit import serialization as memory
from bandit_server.bandit.policy import Policy, build
from bandit_server.bandit.posterior import ArmPosterior
from bandit_server.bandit.random import Randomness

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Pull:
    """The choice of an arm. `number` counts from 0, `arm` is the arm's index."""

    number: int
    arm: int


class Bandit:
    """Chooses among arms numbered from 0, whose rewards may change, on any scale.

        bandit = Bandit(n_arms=7)
        pull = bandit.select()
        bandit.report(pull, reward)

    Several pulls may be open at once, and their rewards may come in any order, or never.

    Args:
        n_arms: How many arms there are; at least 1.
        policy: How to choose (bandit_server.bandit.policy), or `fixed:<index>`.
        seed: The same seed and the same rewards give the same choices.
        options: The policy's options by name.

    Raises:
        ValueError: There is no such policy or option, or no arm.
    """

    def __init__(
        self, n_arms: int, policy: str = "optima", seed: int = 0, options: Mapping[str, float] | None = None
    ) -> None:
        if n_arms < 1:
            raise ValueError(f"a bandit has at least one arm, not {n_arms}")
        self.n_arms = n_arms
        self._made = {"n_arms": n_arms, "policy": policy, "seed": seed, "options": dict(options or {})}
        self._policy: Policy = build(policy, dict(options or {}), n_arms, fixed=_fixed(policy, n_arms))
        self._randomness = Randomness(seed)
        self._next = 0
        self._open: dict[int, int] = {}

    def select(self, active: Sequence[int] | None = None) -> Pull:
        """The arm to pull now. `active`: choose among these only.

        Raises:
            ValueError: `active` is empty, or names an arm that is not there.
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
        """What a pull brought.

        Raises:
            ValueError: The pull is not open, or the reward is not finite.
        """
        if self._open.get(pull.number) != pull.arm:
            raise ValueError(f"pull {pull.number} of arm {pull.arm} is not open: never selected, or reported before")
        if not math.isfinite(reward):
            raise ValueError(f"the reward is {reward}; expected a finite number")
        del self._open[pull.number]
        self._policy.rewarded(pull.number, pull.arm, "", float(reward))

    def abandon(self, pull: Pull) -> None:
        """A pull will bring no reward."""
        self._open.pop(pull.number, None)

    def posterior(self) -> list[ArmPosterior]:
        """The belief about each arm; empty before the first reward, and under policies that do not learn."""
        return self._policy.posterior()

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON values; its size does not grow with the number of pulls."""
        return {
            "schema": SCHEMA,
            **self._made,
            "next": self._next,
            "open": sorted(self._open.items()),
            "remembered": memory.dump(self._policy),
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Self:
        """The bandit that `to_dict` has saved; it goes on as that one would have.

        Raises:
            ValueError: It was saved by another version, or is no such thing at all.
        """
        if saved.get("schema") != SCHEMA:
            raise ValueError(f"schema {saved.get('schema')!r} is not the one this version reads, {SCHEMA}")
        bandit = cls(saved["n_arms"], saved["policy"], saved["seed"], saved["options"])
        memory.load(bandit._policy, saved["remembered"])
        bandit._next = saved["next"]
        bandit._open = dict(saved["open"])
        return bandit


def _fixed(policy: str, arms: int) -> int | None:
    name, _, arm = policy.partition(":")
    if name != "fixed":
        return None
    if not (arm.isdecimal() and int(arm) < arms):
        raise ValueError(f"policy fixed:<arm> names one of the arms 0 to {arms - 1}, not {arm!r}")
    return int(arm)
