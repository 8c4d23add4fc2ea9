"""What is kept of the arms' rewards, so that old ones count less: one way to forget for each class.

All are told of rewards as they come, scaled so that squares are finite, and answer with a mean and a count for every
arm. What they hold does not grow with the number of rewards.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from bandit_server.bandit.posterior import Floats


class Evidence(Protocol):
    """What a policy that scores arms rests on."""

    def put(self, arm: int, age: int, value: float) -> None:
        """The reward of a pull that `age` others have followed."""
        ...

    def slide(self, pulls: int) -> None:
        """So many further pulls of the run have been made; their rewards are still to come."""
        ...

    def rescale(self, factor: float) -> None:
        """All rewards so far are to be multiplied with this."""
        ...

    def estimates(self) -> tuple[Floats, Floats]:
        """Each arm's mean (anything where the count is 0), and how many rewards it is worth; both [arms]."""
        ...


class Average:
    """Each arm's mean r̄ ← r̄ + g·(r − r̄), in its own rewards; an arm's first reward is its mean.

    Args:
        arms: How many there are.
        least: Least gain g: 0 for the plain average, where g = 1/n; α for an exponential moving average of weight α.

    The count is 1/v, v·σ² the mean's variance if the arm does not change: v ← (1 − g)²·v + g². For g = 1/n it is n.
    """

    def __init__(self, arms: int, least: float = 0.0) -> None:
        self._least = least
        self._mean = np.zeros(arms)
        self._pulls = np.zeros(arms)
        self._variance = np.full(arms, np.inf)

    def put(self, arm: int, age: int, value: float) -> None:
        """See Evidence."""
        self._pulls[arm] += 1
        first = self._pulls[arm] == 1
        gain = 1.0 if first else max(self._least, 1 / self._pulls[arm])
        self._mean[arm] += gain * (value - self._mean[arm])
        self._variance[arm] = 1.0 if first else (1 - gain) ** 2 * self._variance[arm] + gain**2

    def slide(self, pulls: int) -> None:
        """Time alone changes nothing."""

    def rescale(self, factor: float) -> None:
        """See Evidence."""
        self._mean *= factor

    def estimates(self) -> tuple[Floats, Floats]:
        """See Evidence."""
        return self._mean, 1 / self._variance


class Window:
    """The last `size` pulls of the run, whichever arm's: mean and number of each arm's rewards among them."""

    def __init__(self, arms: int, size: int) -> None:
        self._arms = arms
        # The place of pull number n is n % size; without a reward its arm is one that is not there.
        self._arm = np.full(size, arms, dtype=np.intp)
        self._value = np.zeros(size)
        self._next = 0

    def put(self, arm: int, age: int, value: float) -> None:
        """See Evidence; a pull that has left the window is ignored."""
        size = len(self._arm)
        if age < size:
            place = (self._next - 1 - age) % size
            self._arm[place] = arm
            self._value[place] = value

    def slide(self, pulls: int) -> None:
        """See Evidence."""
        size = len(self._arm)
        gone = np.arange(self._next, self._next + min(pulls, size)) % size
        self._arm[gone] = self._arms
        self._value[gone] = 0.0
        self._next = (self._next + pulls) % size

    def rescale(self, factor: float) -> None:
        """See Evidence."""
        self._value *= factor

    def estimates(self) -> tuple[Floats, Floats]:
        """See Evidence."""
        count = np.bincount(self._arm, minlength=self._arms + 1)[:-1].astype(float)
        total = np.bincount(self._arm, self._value, self._arms + 1)[:-1]
        return total / np.maximum(count, 1.0), count


class OwnWindow:
    """The last `size` rewards of each arm, whenever they came."""

    def __init__(self, arms: int, size: int) -> None:
        self._value = np.zeros((arms, size))
        self._pulls = np.zeros(arms, dtype=np.intp)

    def put(self, arm: int, age: int, value: float) -> None:
        """See Evidence."""
        self._value[arm, self._pulls[arm] % self._value.shape[1]] = value
        self._pulls[arm] += 1

    def slide(self, pulls: int) -> None:
        """Time alone changes nothing."""

    def rescale(self, factor: float) -> None:
        """See Evidence."""
        self._value *= factor

    def estimates(self) -> tuple[Floats, Floats]:
        """See Evidence."""
        count = np.minimum(self._pulls, self._value.shape[1]).astype(float)
        return self._value.sum(axis=1) / np.maximum(count, 1.0), count


class Discounted:
    """Every reward counts γ^age, its age in pulls of the run: the mean with these weights, and their sum."""

    def __init__(self, arms: int, gamma: float) -> None:
        self._gamma = gamma
        self._total = np.zeros(arms)
        self._weight = np.zeros(arms)

    def put(self, arm: int, age: int, value: float) -> None:
        """See Evidence."""
        weight = self._gamma**age
        self._total[arm] += weight * value
        self._weight[arm] += weight

    def slide(self, pulls: int) -> None:
        """See Evidence."""
        self._total *= self._gamma**pulls
        self._weight *= self._gamma**pulls

    def rescale(self, factor: float) -> None:
        """See Evidence."""
        self._total *= factor

    def estimates(self) -> tuple[Floats, Floats]:
        """See Evidence."""
        return self._total / np.where(self._weight > 0, self._weight, 1.0), self._weight


class Walk:
    """Each arm's mean is a random walk with steps of variance `drift`·σ², one for each pull of the run, seen with noise
    of variance σ²: the Kalman filter (Kalman, Journal of Basic Engineering 1960). With the filtered variance C·σ²,

        C ← C + drift  at every pull,        g = C / (C + v)        m ← m + g·(r − m)        C ← g·v        at a reward,

    v = 1 + drift·age, as a late reward was seen before the steps since. The count is 1/C.
    """

    def __init__(self, arms: int, drift: float) -> None:
        self._drift = drift
        self._mean = np.zeros(arms)
        self._variance = np.full(arms, np.inf)

    def put(self, arm: int, age: int, value: float) -> None:
        """See Evidence."""
        seen, before = 1 + self._drift * age, self._variance[arm]
        gain = 1.0 if before == np.inf else before / (before + seen)
        self._mean[arm] += gain * (value - self._mean[arm])
        self._variance[arm] = gain * seen

    def slide(self, pulls: int) -> None:
        """See Evidence."""
        self._variance += self._drift * pulls

    def rescale(self, factor: float) -> None:
        """See Evidence."""
        self._mean *= factor

    def estimates(self) -> tuple[Floats, Floats]:
        """See Evidence."""
        return self._mean, 1 / self._variance
