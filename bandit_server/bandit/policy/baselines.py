"""Policies that learn nothing: what every other policy is compared with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bandit_server.bandit.posterior import ArmPosterior


class _Plain:
    learns = False

    def __init__(self, arms: int) -> None:
        self.arms = arms

    def pulled(self, number: int, arm: int) -> None:
        """See Policy."""

    def rewarded(self, number: int, arm: int, worker: str, reward: float) -> None:
        """See Policy."""

    def posterior(self) -> list[ArmPosterior]:
        """See Policy."""
        return []


class Uniform(_Plain):
    """Every active arm with the same probability, independently."""

    def choose(
        self, *, in_flight: Sequence[int], active: Sequence[int], rng: np.random.Generator, count: int = 1
    ) -> list[int]:
        """See Policy."""
        return [active[at] for at in rng.integers(len(active), size=count)]


class RoundRobin(_Plain):
    """The active arms in turn: next is the one after the arm pulled last, whoever pulled it."""

    def __init__(self, arms: int) -> None:
        super().__init__(arms)
        self._last = arms - 1

    def pulled(self, number: int, arm: int) -> None:
        """See Policy."""
        self._last = arm

    def choose(
        self, *, in_flight: Sequence[int], active: Sequence[int], rng: np.random.Generator, count: int = 1
    ) -> list[int]:
        """See Policy."""
        ahead = sorted(active, key=lambda arm: (arm - self._last - 1) % self.arms)
        return [ahead[i % len(ahead)] for i in range(count)]


class Fixed(_Plain):
    """Always the same arm."""

    def __init__(self, arms: int, arm: int) -> None:
        super().__init__(arms)
        self.arm = arm

    def choose(
        self, *, in_flight: Sequence[int], active: Sequence[int], rng: np.random.Generator, count: int = 1
    ) -> list[int]:
        """See Policy."""
        return [self.arm] * count
