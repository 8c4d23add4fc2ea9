"""Kinds of bandit problems with changing arms, and the gain of the best player of each."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from bandit_server.bandit.posterior import Floats


class Scenario(ABC):
    """One drawing of a scenario. `pull` plays it once, from beginning to end.

    Args:
        noise: The noise of every pull, [T], of variance 1.
        arms: The number of arms, K.
        sd: The noise's standard deviation, in units of the rewards.
        best: The sum of the expected rewards that the oracle gains.

    Attributes:
        horizon: The total number of pulls, T.
        delay: The number of further pulls before a pull's reward is reported.
        t: The number of pulls so far.
        gained: The sum of the expected rewards of the pulls so far.
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
        """The oracle's gain minus the gain so far."""
        return self.best - self.gained

    def worker(self, t: int) -> str:
        """Return the worker that makes pull t."""
        return "first"

    @abstractmethod
    def mean(self, arm: int) -> float:
        """Return the arm's expected reward, were it pulled now."""

    def pull(self, arm: int) -> float:
        """Pull an arm and return its reward, in the units of the worker."""
        mean = self.mean(arm)
        reward = mean + self._deviation(mean) * self._noise[self.t]
        self.gained += mean
        self.t += 1
        return reward

    def _deviation(self, mean: float) -> float:
        return self._sd


class Restless(Scenario):
    """Arms that change whether they are pulled or not. The oracle always plays the best arm.

    Args:
        noise: As in Scenario.
        sd: As in Scenario.
        means: The expected reward by time and arm, [T, K].
    """

    def __init__(self, noise: Floats, sd: float, means: Floats) -> None:
        super().__init__(noise, means.shape[1], sd, float(means.max(axis=1).sum()))
        self._means: list[list[float]] = means.tolist()

    def mean(self, arm: int) -> float:
        """Return the arm's expected reward, were it pulled now."""
        return self._means[self.t][arm]


class Rested(Scenario):
    """Arms that change when they are pulled.

    If all curves fall, the greedy oracle is the best one (Heidari et al., IJCAI 2016). If one does not, the oracle
    plays the best of all allocations: for every number of pulls of that arm, it is greedy on the others.

    Args:
        noise: As in Scenario.
        sd: As in Scenario.
        curves: The expected reward by arm and its own pulls so far, [K, T].
        rising: The arm whose curve rises somewhere, if there is one.
        delay: As in Scenario.

    Attributes:
        curves: The argument `curves`.
        rising: The argument `rising`.
    """

    def __init__(self, noise: Floats, sd: float, curves: Floats, rising: int | None = None, delay: int = 0) -> None:
        super().__init__(noise, len(curves), sd, _best_sum(curves, rising))
        self.curves = curves
        self.rising = rising
        self.delay = delay
        self._curves: list[list[float]] = curves.tolist()
        # By worker: each one trains a student of its own.
        self._pulls = {"first": [0] * self.arms}

    def mean(self, arm: int) -> float:
        """Return the arm's expected reward, were it pulled now."""
        return self._curves[arm][self._pulls[self.worker(self.t)][arm]]

    def pull(self, arm: int) -> float:
        """Pull an arm and return its reward."""
        pulls = self._pulls[self.worker(self.t)]
        reward = super().pull(arm)
        pulls[arm] += 1
        return reward


class CommonTrend(Rested):
    """Falling curves, all multiplied by a factor that falls with time.

    Args:
        noise: As in Scenario.
        sd: The noise's standard deviation as a fraction of the current mean.
        curves: As in Rested; all fall.
        trend: The factor, [T].
    """

    def __init__(self, noise: Floats, sd: float, curves: Floats, trend: Floats) -> None:
        super().__init__(noise, sd, curves)
        self._trend: list[float] = trend.tolist()
        # Both fall, so the best order pairs the largest rewards with the largest factors.
        self.best = float(_sorted_rewards(curves)[: self.horizon] @ trend)

    def mean(self, arm: int) -> float:
        """Return the arm's expected reward, were it pulled now."""
        return super().mean(arm) * self._trend[self.t]

    def _deviation(self, mean: float) -> float:
        return self._sd * mean


class LateWorker(Rested):
    """Two students of one kind: from T/2 on, a second worker makes every other pull.

    Its rewards are reported `units` times as large, but count the same as gain. The oracle is greedy on each student.

    Args:
        noise: As in Scenario.
        sd: As in Scenario.
        curves: As in Rested; all fall.
        units: The factor on the second worker's rewards.
    """

    def __init__(self, noise: Floats, sd: float, curves: Floats, units: float) -> None:
        super().__init__(noise, sd, curves)
        self._units = units
        self._pulls["late"] = [0] * self.arms
        late = sum(self.worker(t) == "late" for t in range(self.horizon))
        ordered = _sorted_rewards(curves)
        self.best = float(ordered[: self.horizon - late].sum() + ordered[:late].sum())

    def worker(self, t: int) -> str:
        """Return the worker that makes pull t."""
        return "late" if 2 * t >= self.horizon and t % 2 else "first"

    def pull(self, arm: int) -> float:
        """Pull an arm and return its reward."""
        units = self._units if self.worker(self.t) == "late" else 1.0
        return units * super().pull(arm)


def _sorted_rewards(curves: Floats) -> Floats:
    """Return all rewards, the largest first."""
    ordered: Floats = np.sort(curves, axis=None)[::-1]
    return ordered


def _best_sum(curves: Floats, rising: int | None) -> float:
    """Return the largest sum of T rewards, for curves [K, T] of which at most `rising` does not fall."""
    horizon = curves.shape[1]
    if rising is None:
        return float(_sorted_rewards(curves)[:horizon].sum())
    others = _sorted_rewards(np.delete(curves, rising, axis=0))[:horizon]
    of_others, of_rising = (np.concatenate([[0.0], np.cumsum(rewards)]) for rewards in (others, curves[rising]))
    return float((of_rising + of_others[::-1]).max())
