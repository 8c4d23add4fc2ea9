"""Baselines: policies that do not learn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bandit_server.bandit.posterior import ArmPosterior


class _Baseline:
    """A policy that ignores rewards."""

    learns = False

    def __init__(self, arms: int) -> None:
        self.arms = arms

    def pulled(self, number: int, arm: int) -> None:
        """Record a pull."""

    def rewarded(self, number: int, arm: int, worker: str, reward: float) -> None:
        """Record the reward of a pull."""

    def posterior(self) -> list[ArmPosterior]:
        """Return the belief about each arm."""
        return []


class Uniform(_Baseline):
    """Chooses every active arm with the same probability."""

    def choose(
        self, *, in_flight: Sequence[int], active: Sequence[int], rng: np.random.Generator, count: int = 1
    ) -> list[int]:
        """Choose the next `count` arms."""
        return [active[index] for index in rng.integers(len(active), size=count)]


class RoundRobin(_Baseline):
    """Chooses the active arms in turn, beginning after the arm of the run's last pull."""

    def __init__(self, arms: int) -> None:
        super().__init__(arms)
        self._last = arms - 1

    def pulled(self, number: int, arm: int) -> None:
        """Record a pull."""
        self._last = arm

    def choose(
        self, *, in_flight: Sequence[int], active: Sequence[int], rng: np.random.Generator, count: int = 1
    ) -> list[int]:
        """Choose the next `count` arms."""
        order = sorted(active, key=lambda arm: (arm - self._last - 1) % self.arms)
        return [order[i % len(order)] for i in range(count)]


class Fixed(_Baseline):
    """Chooses always the same arm."""

    def __init__(self, arms: int, arm: int) -> None:
        super().__init__(arms)
        self.arm = arm

    def choose(
        self, *, in_flight: Sequence[int], active: Sequence[int], rng: np.random.Generator, count: int = 1
    ) -> list[int]:
        """Choose the next `count` arms."""
        return [self.arm] * count
