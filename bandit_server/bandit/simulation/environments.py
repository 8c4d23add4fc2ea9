"""Arms that change, and what the best player would have gained: what scenarios.py is made of."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from bandit_server.bandit.posterior import Floats


class Scenario(ABC):
    """One drawing of a scenario; `pull` plays it once, from beginning to end.

    Args:
        noise: Noise of every pull, [T], of variance 1.
        arms: How many there are, K.
        sd: The noise's standard deviation, in units of the rewards.
        best: Sum of the expected rewards that the oracle gains.

    Attributes:
        horizon: Pulls in all, T.
        delay: How many further pulls are made before a pull's reward is told.
        t: Pulls so far.
        gained: Sum of the expected rewards of the pulls so far.
    """

    def __init__(self, noise: Floats, arms: int, sd: float, best: float) -> None:
        self.horizon = len(noise)
        self.arms = arms
        self.best = best
        self.delay = 0
        self.t = 0
        self.gained = 0.0
        self._sd = sd
        # Lists: reading a single number of an array takes several times as long.
        self._noise: list[float] = noise.tolist()

    @property
    def regret(self) -> float:
        """What the oracle gains more than was gained."""
        return self.best - self.gained

    def worker(self, t: int) -> str:
        """Who makes pull t."""
        return "first"

    @abstractmethod
    def mean(self, arm: int) -> float:
        """The arm's expected reward, were it pulled now."""

    def pull(self, arm: int) -> float:
        """The arm's reward, in the units of who pulls."""
        mean = self.mean(arm)
        reward = mean + self._deviation(mean) * self._noise[self.t]
        self.gained += mean
        self.t += 1
        return reward

    def _deviation(self, mean: float) -> float:
        return self._sd


class Restless(Scenario):
    """Arms that change whether they are pulled or not. The oracle plays the best arm of each time.

    Args:
        means: Expected reward by time and arm, [T, K].
    """

    def __init__(self, noise: Floats, sd: float, means: Floats) -> None:
        super().__init__(noise, means.shape[1], sd, float(means.max(axis=1).sum()))
        self._means: list[list[float]] = means.tolist()

    def mean(self, arm: int) -> float:
        """See Scenario."""
        return self._means[self.t][arm]


class Rested(Scenario):
    """Arms that change when they are pulled.

    Where all curves fall, the greedy oracle is the best one (Heidari et al., IJCAI 2016). Where one does not, the
    oracle's is the best of all allocations: for every number of pulls of that arm, greedy on the others.

    Args:
        curves: Expected reward by arm and its own pulls so far, [K, T].
        slow: The arm whose curve does not fall all the way, if there is one.
        delay: See Scenario.

    Attributes:
        curves: As given.
        slow: As given.
    """

    def __init__(self, noise: Floats, sd: float, curves: Floats, slow: int | None = None, delay: int = 0) -> None:
        super().__init__(noise, len(curves), sd, _greatest_sum(curves, slow))
        self.curves = curves
        self.slow = slow
        self.delay = delay
        self._curves: list[list[float]] = curves.tolist()
        # By worker: each trains a student of its own.
        self._pulls = {"first": [0] * self.arms}

    def mean(self, arm: int) -> float:
        """See Scenario."""
        return self._curves[arm][self._pulls[self.worker(self.t)][arm]]

    def pull(self, arm: int) -> float:
        """See Scenario."""
        pulls = self._pulls[self.worker(self.t)]
        reward = super().pull(arm)
        pulls[arm] += 1
        return reward


class CommonTrend(Rested):
    """Falling curves, all multiplied with a factor that falls with time.

    Args:
        sd: The noise's standard deviation as a share of the current mean.
        trend: The factor, [T].
    """

    def __init__(self, noise: Floats, sd: float, curves: Floats, trend: Floats) -> None:
        super().__init__(noise, sd, curves)
        self._trend: list[float] = trend.tolist()
        # Both fall: the greatest meet the greatest.
        self.best = float(_falling(curves)[: self.horizon] @ trend)

    def mean(self, arm: int) -> float:
        """See Scenario."""
        return super().mean(arm) * self._trend[self.t]

    def _deviation(self, mean: float) -> float:
        return self._sd * mean


class LateWorker(Rested):
    """Two students of one kind: from T/2 on, a second worker makes every other pull.

    Its rewards are told `units` times as large; what is gained counts alike, the oracle is greedy on each student.

    Args:
        units: What the second worker's rewards are multiplied with.
    """

    def __init__(self, noise: Floats, sd: float, curves: Floats, units: float) -> None:
        super().__init__(noise, sd, curves)
        self._units = units
        self._pulls["late"] = [0] * self.arms
        late = sum(self.worker(t) == "late" for t in range(self.horizon))
        ordered = _falling(curves)
        self.best = float(ordered[: self.horizon - late].sum() + ordered[:late].sum())

    def worker(self, t: int) -> str:
        """See Scenario."""
        return "late" if 2 * t >= self.horizon and t % 2 else "first"

    def pull(self, arm: int) -> float:
        """See Scenario."""
        units = self._units if self.worker(self.t) == "late" else 1.0
        return units * super().pull(arm)


def _falling(curves: Floats) -> Floats:
    """All rewards, the greatest first."""
    ordered: Floats = np.sort(curves, axis=None)[::-1]
    return ordered


def _greatest_sum(curves: Floats, slow: int | None) -> float:
    """The most that T pulls can bring, of curves [K, T] of which at most one does not fall."""
    horizon = curves.shape[1]
    if slow is None:
        return float(_falling(curves)[:horizon].sum())
    others = _falling(np.delete(curves, slow, axis=0))[:horizon]
    of_others, of_slow = (np.concatenate([[0.0], np.cumsum(rewards)]) for rewards in (others, curves[slow]))
    return float((of_slow + of_others[::-1]).max())
