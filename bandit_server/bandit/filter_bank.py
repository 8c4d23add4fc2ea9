"""A bank of filters: what the arms' rewards say under every hypothesis about how they change.

Under one hypothesis (q_own, q_time, ρ) arm k's mean reward μ is a local level (West & Harrison, *Bayesian Forecasting
and Dynamic Models*, 1997, ch. 2): between its pull before, `gap` pulls of the run ago, and this one it goes to

    ρ^gap · μ + a step of variance (q_own + q_time · gap) · σ²,        and is seen with noise of variance σ².

q_own is change that comes from training the arm itself (rotting, rising); q_time is change that comes without
(another arm's training, an abrupt event); ρ < 1 is a trend that all arms share (the loss runs out). With the filtered
mean m and variance C·σ², the reward r and

    d = ρ^gap      R = d²·C + q_own + q_time·gap      F = R + 1      e = r − d·m
    m ← d·m + R/F · e                                 C ← R/F

is the Kalman filter. σ² is not given: everything is relative to it, and with discounted sums over all arms' steps

    S = Σ e²/F      D = Σ log F      n = Σ 1          σ² = S/n        log weight = −(D + n·log S)/2

the last of which is the hypothesis' marginal likelihood with σ² integrated out (*ibid.*, ch. 4.5 and 12: a
multi-process model of class I, its past discounted). So nobody says how long a window should be, nor how large a reward
is: the data choose between a long memory and a short one, and multiplying every reward changes nothing.
"""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import numpy.typing as npt

from bandit_server.bandit.posterior import Floats

Ints = npt.NDArray[np.intp]

OWN = (0.0, 0.003, 0.03, 0.3)
TIME = (0.0, 0.001, 0.01, 0.1)
SHARED = (1.0, 0.9975, 0.99, 0.96)
# A spread below this share of the rewards themselves is rounding, not information.
_ROUNDING = 1e-12
_LEAST = math.ldexp(1.0, -1000)

_OWN, _TIME, _SHARED = (np.array(values) for values in zip(*itertools.product(OWN, TIME, SHARED), strict=True))
_LOG_SHARED = np.log(_SHARED)
_NAMED = np.stack([_OWN, _TIME, _LOG_SHARED])
HYPOTHESES = len(_OWN)
# The same as numbers of Python's own: reading one of an array's takes several times as long.
_NUMBERS: list[tuple[float, float, float]] = list(zip(_OWN.tolist(), _TIME.tolist(), _LOG_SHARED.tolist(), strict=True))


@functools.lru_cache(maxsize=1024)
def _change(gap: int) -> tuple[Floats, Floats, Floats]:
    """What `gap` pulls of the run do to an arm that is then pulled: ρ^gap, its square and the step, [HYPOTHESES]."""
    shared = np.exp(_LOG_SHARED * gap)
    return shared, shared * shared, _OWN + _TIME * gap


@functools.cache
def _ahead(count: int) -> Floats:
    """0, 1, 2, …, [count]."""
    return np.arange(count, dtype=float)


class Bank:
    """The filters of all arms.

    Args:
        arms: How many there are.
        memory: What the weight of a step in S, D and n is multiplied with for each later one; in (0, 1).

    Attributes:
        count: Rewards of each arm.
    """

    def __init__(self, arms: int, memory: float) -> None:
        self.count = [0] * arms
        self._memory = memory
        self._mean = np.zeros((arms, HYPOTHESES))
        self._variance = np.ones((arms, HYPOTHESES))
        # Of each arm, the number of the pull that was rewarded last.
        self._last = [0] * arms
        self._squares = np.zeros(HYPOTHESES)
        self._logs = np.zeros(HYPOTHESES)
        self._steps = 0.0
        self._largest = 0.0
        self._floor = _LEAST
        # How probable each hypothesis is, relative to the most probable one; which that is.
        self._weights = np.ones(HYPOTHESES)
        self._likely = 0

    def rescale(self, factor: float) -> None:
        """All rewards so far are to be multiplied with this."""
        self._mean *= factor
        self._squares *= factor * factor
        self._largest *= factor
        self._floor = (_ROUNDING * self._largest) ** 2 or _LEAST

    def learn(self, number: int, arm: int, reward: float) -> tuple[float, float]:
        """What pull `number` brought. One that comes late was seen before the change since, which blurs it.

        Returns:
            Under the most probable hypothesis: how many standard deviations the reward was above its prediction, 0 for
            an arm's first one; and how many the arm's mean is now above 0.
        """
        if abs(reward) > self._largest:
            self._largest = abs(reward)
            self._floor = (_ROUNDING * self._largest) ** 2 or _LEAST
        likely, surprise = self._likely, 0.0
        mean, variance = self._mean[arm], self._variance[arm]
        gap = number - self._last[arm]
        if not self.count[arm]:
            mean[:] = reward
        else:
            if gap > 0:
                shared, squared, step = _change(gap)
                mean *= shared
                variance *= squared
                variance += step
                spread = variance + 1.0
            else:
                blur = 1.0 + _OWN - _TIME * gap
                spread = variance + blur
            error = reward - mean
            surprise = error.item(likely) / math.sqrt(spread.item(likely) * self.noise(likely))
            variance /= spread
            mean += variance * error
            if gap <= 0:
                variance *= blur
            error *= error
            error /= spread
            self._squares *= self._memory
            self._squares += error
            self._logs *= self._memory
            self._logs += np.log(spread, out=spread)
            self._steps = self._steps * self._memory + 1.0
            self._weigh()
        self.count[arm] += 1
        self._last[arm] = max(number, self._last[arm])
        return surprise, mean.item(likely) / math.sqrt(variance.item(likely) * self.noise(likely))

    def _weigh(self) -> None:
        log = self._squares + self._floor
        np.log(log, out=log)
        log *= self._steps
        log += self._logs
        self._likely = int(log.argmin())
        log -= log.item(self._likely)
        log *= -0.5
        self._weights = np.exp(log, out=log)

    @property
    def weights(self) -> Floats:
        """How probable each hypothesis is, [HYPOTHESES], summing to 1."""
        return np.asarray(self._weights / self._weights.sum())

    def draw(self, shares: Floats) -> Ints:
        """Hypotheses drawn by their weights, each with a number that is uniform in [0, 1)."""
        reached = np.add.accumulate(self._weights)
        drawn: Ints = reached.searchsorted(shares * reached.item(-1), "right")
        np.minimum(drawn, HYPOTHESES - 1, out=drawn)
        return drawn

    def noise(self, hypothesis: int) -> float:
        """σ² under a hypothesis; above 0. Before any arm has two rewards: the arms' spread."""
        if self._steps:
            return (self._squares.item(hypothesis) + self._floor) / self._steps
        seen = self._mean[[count > 0 for count in self.count], 0]
        if not len(seen):
            return self._floor
        # As numpy's `var` does it, which takes three times as long to begin.
        apart = seen - np.add.reduce(seen) / len(seen)
        return float(np.add.reduce(apart * apart)) / len(seen) + self._floor

    def predict(self, now: int, hypothesis: int) -> tuple[list[float], list[float]]:
        """Mean of each arm's reward at pull `now`, and its variance in units of σ², both [arms].

        `now` is later than every pull rewarded so far. Arms without rewards are as the average of the others, and as
        uncertain as one reward leaves an arm.
        """
        own, time, shared = _NUMBERS[hypothesis]
        means, variances = self._mean[:, hypothesis].tolist(), self._variance[:, hypothesis].tolist()
        for arm, last in enumerate(self._last):
            gap = now - last
            if shared:
                change = math.exp(gap * shared)
                means[arm] *= change
                variances[arm] *= change * change
            variances[arm] += gap * time + own
        if 0 in self.count:
            seen = [mean for mean, count in zip(means, self.count, strict=True) if count]
            for arm, count in enumerate(self.count):
                if not count:
                    means[arm], variances[arm] = (sum(seen) / len(seen) if seen else 0.0), 1.0
        return means, variances

    def foresee(self, now: int, hypotheses: Ints) -> tuple[Floats, Floats, Floats]:
        """`predict` and `noise` for pull `now` and those after it, each under a hypothesis of its own.

        Returns:
            Means and variances, both [arms, hypotheses], and σ², [hypotheses].
        """
        arms = len(self.count)
        # All that is known under each hypothesis in one table: one look-up instead of six, which take longer than the
        # arithmetic.
        table = np.concatenate((_NAMED, self._squares[None], self._mean, self._variance))
        found = table.take(hypotheses, axis=1)
        own, time, shared, squares = found[:4]
        means, variances = found[4 : 4 + arms], found[4 + arms :]
        gaps = np.add.outer([now - last for last in self._last], _ahead(len(hypotheses)))
        change = np.exp(shared * gaps)
        means *= change
        change *= change
        variances *= change
        gaps *= time
        variances += gaps
        variances += own
        if 0 in self.count:
            seen = np.array(self.count) > 0
            # As a mean of rows: the sum of a column may be rounded otherwise.
            means[~seen] = np.ascontiguousarray(means[seen].T).mean(axis=1) if seen.any() else 0.0
            variances[~seen] = 1.0
        if not self._steps:
            return means, variances, np.full(len(hypotheses), self.noise(0))
        squares += self._floor
        squares /= self._steps
        return means, variances, squares

    def averaged(self, now: int) -> tuple[Floats, Floats, Floats]:
        """Mean and standard deviation of each arm's mean reward, and its effective count, over all hypotheses."""
        weights = self.weights
        noise = np.array([self.noise(hypothesis) for hypothesis in range(HYPOTHESES)])
        gap = (now - np.array(self._last))[:, None]
        change = np.exp(_LOG_SHARED * gap)
        means, variances = self._mean * change, self._variance * change * change + (_OWN + _TIME * gap)
        seen = np.array(self.count) > 0
        means[~seen] = means[seen].mean(axis=0) if seen.any() else 0.0
        variances[~seen] = 1.0
        mean = means @ weights
        variance = (variances * noise + (means - mean[:, None]) ** 2) @ weights
        # A hypothesis that excludes change has a variance that falls to nothing.
        count = np.minimum((1 / np.maximum(variances, _LEAST)) @ weights, self.count)
        return mean, np.sqrt(variance), count
