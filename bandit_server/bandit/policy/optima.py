"""``optima``, the default: Thompson sampling in which recent history decides, and the data say what is recent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bandit_server.bandit.bank import Bank
from bandit_server.bandit.posterior import ArmPosterior, gaussian
from bandit_server.bandit.units import Units


class Optima:
    """Thompson sampling (Thompson, Biometrika 1933) on the bank of filters in bank.py.

    For each choice one hypothesis is drawn by its weight, and every arm's mean from its posterior under that one, its
    standard deviation multiplied with `exploration`; the highest is played. Before that come, in this order, arms
    that were never tried, in random order, and an arm that was not pulled during the last `retry` pulls per arm: what
    a module pays can rise while nobody looks, and no posterior of old rewards says so. Pulls in flight count as if
    they had returned their arm's mean.

    Args:
        arms: How many there are.
        memory: How fast the evidence for hypotheses and noise is forgotten, per reward; in (0, 1).
        exploration: Multiplies posterior standard deviations; at least 0. Below 1 it explores less than plain
            Thompson sampling, which pays where there is little time.
        retry: Pulls of the run, per arm, after which an arm is tried again; 0 for never.

    Raises:
        ValueError: An option is out of its range.
    """

    learns = True

    def __init__(self, arms: int, *, memory: float = 0.95, exploration: float = 0.6, retry: float = 20.0) -> None:
        if not 0 < memory < 1:
            raise ValueError(f"option memory is {memory:g}; expected a number between 0 and 1")
        if not 0 <= exploration <= 100:
            raise ValueError(f"option exploration is {exploration:g}; expected a number from 0 to 100")
        if not 0 <= retry <= 1e9:
            raise ValueError(f"option retry is {retry:g}; expected a number of pulls per arm, 0 for never")
        self._bank = Bank(arms, memory)
        self._units = Units()
        self._exploration = exploration
        self._patience = retry * arms if retry else float("inf")
        self._now = 0
        # By arm, the number of its last pull.
        self._pulled = [-1] * arms

    def pulled(self, number: int, arm: int) -> None:
        """See Policy."""
        self._pulled[arm] = max(number, self._pulled[arm])
        self._now = max(number + 1, self._now)

    def rewarded(self, number: int, arm: int, worker: str, reward: float) -> None:
        """See Policy."""
        value, shrink = self._units.take(worker, reward)
        if shrink != 1.0:
            self._bank.rescale(shrink)
        self._bank.learn(number, arm, value)

    def choose(
        self, *, in_flight: Sequence[int], active: Sequence[int], rng: np.random.Generator, count: int = 1
    ) -> list[int]:
        """See Policy."""
        tried = self._bank.count
        untried = [arm for arm in active if not tried[arm] and arm not in in_flight]
        arms = [int(arm) for arm in rng.permutation(untried)][:count] if untried else []
        old = [arm for arm in active if tried[arm] and self._now - self._pulled[arm] > self._patience]
        arms += sorted(old, key=self._pulled.__getitem__)[: count - len(arms)]
        if len(arms) < count:
            arms += self._sample([*in_flight, *arms], active, rng, count - len(arms))
        return arms

    def _sample(
        self, in_flight: Sequence[int], active: Sequence[int], rng: np.random.Generator, count: int
    ) -> list[int]:
        if not any(self._bank.count):
            # All that were tried are in flight: nothing tells the arms apart but that.
            flying = np.bincount(np.asarray(in_flight, dtype=np.intp), minlength=len(self._pulled))
            arms = []
            for _ in range(count):
                arms.append(min(rng.permutation(active), key=lambda arm: flying[arm]))
                flying[arms[-1]] += 1
            return [int(arm) for arm in arms]
        hypotheses = np.searchsorted(np.cumsum(self._bank.weights()), rng.random(count))
        noise = self._bank.noise()
        # Shuffled, so that of equal arms none is preferred.
        choices = rng.permutation(active) if len(active) > 1 else np.asarray(active)
        more = np.zeros(len(self._pulled))
        np.add.at(more, np.asarray(in_flight, dtype=np.intp), 1.0)
        chosen = []
        for ahead, hypothesis in enumerate(np.minimum(hypotheses, len(noise) - 1)):
            mean, variance = self._bank.predict(self._now + ahead, int(hypothesis))
            variance = variance / (1 + more * variance)
            sd = self._exploration * np.sqrt(variance[choices] * noise[hypothesis])
            arm = int(choices[np.argmax(mean[choices] + sd * rng.standard_normal(len(choices)))])
            chosen.append(arm)
            more[arm] += 1
        return chosen

    def posterior(self) -> list[ArmPosterior]:
        """See Policy."""
        if not any(self._bank.count):
            return []
        mean, sd, count = self._bank.averaged(self._now)
        return gaussian(mean, sd, count, self._units.unit)
