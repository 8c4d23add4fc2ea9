"""Estimators of each arm's mean reward, in which old rewards count less; each class forgets in its own way.

Rewards are added as they arrive, scaled so that their squares are finite. The estimate is a mean and a count for every
arm. The size of an estimator does not grow with the number of rewards.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from bandit_server.bandit.posterior import Floats


class Estimator(Protocol):
    """The estimate of each arm's mean that an index policy uses."""

    def add(self, arm: int, age: int, value: float) -> None:
        """Add the reward of a pull that `age` other pulls of the run have followed."""
        ...

    def advance(self, pulls: int) -> None:
        """Move on by a number of pulls of the run whose rewards are still to come."""
        ...

    def rescale(self, factor: float) -> None:
        """Multiply all rewards so far by a factor."""
        ...

    def estimates(self) -> tuple[Floats, Floats]:
        """Return each arm's mean (undefined where the count is 0) and its effective number of rewards, both [arms]."""
        ...


class Average:
    """Each arm's average, r̄ ← r̄ + g·(r − r̄) at each of its rewards; its first reward is its mean.

    The count is 1/v, where v·σ² is the variance of the mean if the arm does not change: v ← (1 − g)²·v + g². For
    g = 1/n it is n.

    Args:
        arms: The number of arms.
        min_gain: The lowest gain g: 0 for the plain average, where g = 1/n; α for an exponential moving average of
            weight α.
    """

    def __init__(self, arms: int, min_gain: float = 0.0) -> None:
        self._min_gain = min_gain
        self._mean = np.zeros(arms)
        self._pulls = np.zeros(arms)
        self._variance = np.full(arms, np.inf)

    def add(self, arm: int, age: int, value: float) -> None:
        """Add the reward of a pull."""
        self._pulls[arm] += 1
        first = self._pulls[arm] == 1
        gain = 1.0 if first else max(self._min_gain, 1 / self._pulls[arm])
        self._mean[arm] += gain * (value - self._mean[arm])
        self._variance[arm] = 1.0 if first else (1 - gain) ** 2 * self._variance[arm] + gain**2

    def advance(self, pulls: int) -> None:
        """Do nothing: pulls without rewards change no estimate."""

    def rescale(self, factor: float) -> None:
        """Multiply all rewards so far by a factor."""
        self._mean *= factor

    def estimates(self) -> tuple[Floats, Floats]:
        """Return each arm's mean and effective number of rewards, both [arms]."""
        return self._mean, 1 / self._variance


class SlidingWindow:
    """The mean and number of each arm's rewards among the last `size` pulls of the run."""

    def __init__(self, arms: int, size: int) -> None:
        self._arms = arms
        # Pull number n is at n % size. Until its reward arrives, its arm is `arms`, which does not exist.
        self._arm = np.full(size, arms, dtype=np.intp)
        self._value = np.zeros(size)
        self._next = 0

    def add(self, arm: int, age: int, value: float) -> None:
        """Add the reward of a pull, unless the pull has left the window."""
        size = len(self._arm)
        if age < size:
            position = (self._next - 1 - age) % size
            self._arm[position] = arm
            self._value[position] = value

    def advance(self, pulls: int) -> None:
        """Move on by a number of pulls of the run."""
        size = len(self._arm)
        expired = np.arange(self._next, self._next + min(pulls, size)) % size
        self._arm[expired] = self._arms
        self._value[expired] = 0.0
        self._next = (self._next + pulls) % size

    def rescale(self, factor: float) -> None:
        """Multiply all rewards so far by a factor."""
        self._value *= factor

    def estimates(self) -> tuple[Floats, Floats]:
        """Return each arm's mean and effective number of rewards, both [arms]."""
        count = np.bincount(self._arm, minlength=self._arms + 1)[:-1].astype(float)
        total = np.bincount(self._arm, self._value, self._arms + 1)[:-1]
        return total / np.maximum(count, 1.0), count


class PerArmWindow:
    """The mean and number of each arm's own last `size` rewards."""

    def __init__(self, arms: int, size: int) -> None:
        self._value = np.zeros((arms, size))
        self._pulls = np.zeros(arms, dtype=np.intp)

    def add(self, arm: int, age: int, value: float) -> None:
        """Add the reward of a pull."""
        self._value[arm, self._pulls[arm] % self._value.shape[1]] = value
        self._pulls[arm] += 1

    def advance(self, pulls: int) -> None:
        """Do nothing: pulls without rewards change no estimate."""

    def rescale(self, factor: float) -> None:
        """Multiply all rewards so far by a factor."""
        self._value *= factor

    def estimates(self) -> tuple[Floats, Floats]:
        """Return each arm's mean and effective number of rewards, both [arms]."""
        count = np.minimum(self._pulls, self._value.shape[1]).astype(float)
        return self._value.sum(axis=1) / np.maximum(count, 1.0), count


class DiscountedMean:
    """The mean of each arm's rewards weighted by γ^age, and the sum of the weights; age counts pulls of the run."""

    def __init__(self, arms: int, gamma: float) -> None:
        self._gamma = gamma
        self._total = np.zeros(arms)
        self._weight = np.zeros(arms)

    def add(self, arm: int, age: int, value: float) -> None:
        """Add the reward of a pull."""
        weight = self._gamma**age
        self._total[arm] += weight * value
        self._weight[arm] += weight

    def advance(self, pulls: int) -> None:
        """Move on by a number of pulls of the run."""
        self._total *= self._gamma**pulls
        self._weight *= self._gamma**pulls

    def rescale(self, factor: float) -> None:
        """Multiply all rewards so far by a factor."""
        self._total *= factor

    def estimates(self) -> tuple[Floats, Floats]:
        """Return each arm's mean and effective number of rewards, both [arms]."""
        return self._total / np.where(self._weight > 0, self._weight, 1.0), self._weight


class RandomWalk:
    """The Kalman filter of means that are random walks (Kalman, Journal of Basic Engineering 1960).

    Each arm's mean takes a step of variance `drift`·σ² at each pull of the run, and is observed with noise of variance
    σ². With the filtered variance C·σ²,

        C ← C + drift  at every pull,        g = C / (C + v)        m ← m + g·(r − m)        C ← g·v        at a reward,

    where v = 1 + drift·age, as a late reward was observed before the steps since then. The count is 1/C.
    """

    def __init__(self, arms: int, drift: float) -> None:
        self._drift = drift
        self._mean = np.zeros(arms)
        self._variance = np.full(arms, np.inf)

    def add(self, arm: int, age: int, value: float) -> None:
        """Add the reward of a pull."""
        noise, prior = 1 + self._drift * age, self._variance[arm]
        gain = 1.0 if prior == np.inf else prior / (prior + noise)
        self._mean[arm] += gain * (value - self._mean[arm])
        self._variance[arm] = gain * noise

    def advance(self, pulls: int) -> None:
        """Move on by a number of pulls of the run."""
        self._variance += self._drift * pulls

    def rescale(self, factor: float) -> None:
        """Multiply all rewards so far by a factor."""
        self._mean *= factor

    def estimates(self) -> tuple[Floats, Floats]:
        """Return each arm's mean and effective number of rewards, both [arms]."""
        return self._mean, 1 / self._variance
