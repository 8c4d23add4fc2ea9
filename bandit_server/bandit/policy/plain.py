"""Policies that learn nothing: what every other policy is compared with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bandit_server.bandit.history import History
from bandit_server.bandit.policy.base import WINDOW
from bandit_server.bandit.posterior import ArmPosterior


class _Plain:
    window = WINDOW
    learns = False

    def posterior(self, history: History) -> list[ArmPosterior]:
        return []


class Uniform(_Plain):
    """Every active arm with the same probability, independently."""

    def choose(
        self,
        history: History,
        *,
        in_flight: Sequence[int],
        active: Sequence[int],
        rng: np.random.Generator,
        count: int,
    ) -> list[int]:
        return [int(arm) for arm in rng.choice(np.asarray(active), size=count)]


class RoundRobin(_Plain):
    """The active arms in turn: next is the one after the arm pulled last, whoever pulled it."""

    def choose(
        self,
        history: History,
        *,
        in_flight: Sequence[int],
        active: Sequence[int],
        rng: np.random.Generator,
        count: int,
    ) -> list[int]:
        arms = len(history)
        last = arms - 1 if history.last is None else history.last
        ahead = sorted(active, key=lambda arm: (arm - last - 1) % arms)
        return [ahead[i % len(ahead)] for i in range(count)]


class Fixed(_Plain):
    """Always the same arm."""

    def __init__(self, arm: int) -> None:
        self.arm = arm

    def choose(
        self,
        history: History,
        *,
        in_flight: Sequence[int],
        active: Sequence[int],
        rng: np.random.Generator,
        count: int,
    ) -> list[int]:
        return [self.arm] * count
