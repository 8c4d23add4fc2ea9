"""A bank of Kalman filters: each arm's mean reward under every hypothesis about how rewards change.

Under one hypothesis (q_own, q_time, ρ) arm k's mean reward μ is a local level (West & Harrison, *Bayesian Forecasting
and Dynamic Models*, 1997, ch. 2). Between two pulls of the arm, `gap` pulls of the run apart, it changes to

    ρ^gap · μ + a step of variance (q_own + q_time · gap) · σ²,        and is observed with noise of variance σ².

q_own is change caused by training the arm itself (rotting, rising); q_time is change from outside (another arm's
training, an abrupt event); ρ < 1 is a trend that all arms share (the loss runs out). With the filtered mean m and
variance C·σ², the reward r and

    d = ρ^gap      R = d²·C + q_own + q_time·gap      F = R + 1      e = r − d·m
    m ← d·m + R/F · e                                 C ← R/F

is the Kalman filter. σ² is unknown. Everything is relative to it, and with discounted sums over the steps of all arms

    S = Σ e²/F      D = Σ log F      n = Σ 1          σ² = S/n        log weight = −(D + n·log S)/2

where the log weight is the hypothesis' marginal likelihood with σ² integrated out (*ibid.*, ch. 4.5 and 12: a
multi-process model of class I with a discounted past). So neither the length of a window nor the size of a reward is a
parameter: the data choose between a long and a short memory, and multiplying every reward by a constant changes
nothing.
"""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import numpy.typing as npt

from bandit_server.bandit.posterior import Floats

Ints = npt.NDArray[np.intp]

# A hypothesis is one combination of these values.
Q_OWN = (0.0, 0.003, 0.03, 0.3)
Q_TIME = (0.0, 0.001, 0.01, 0.1)
RHO = (1.0, 0.9975, 0.99, 0.96)
# A spread below this fraction of the rewards themselves is rounding error.
_ROUNDING = 1e-12
_TINY = math.ldexp(1.0, -1000)

_Q_OWN, _Q_TIME, _RHO = (np.array(values) for values in zip(*itertools.product(Q_OWN, Q_TIME, RHO), strict=True))
_LOG_RHO = np.log(_RHO)
_PARAMETERS = np.stack([_Q_OWN, _Q_TIME, _LOG_RHO])
HYPOTHESES = len(_Q_OWN)
# The same as Python floats: reading a single number of an array takes several times as long.
_HYPOTHESES: list[tuple[float, float, float]] = list(
    zip(_Q_OWN.tolist(), _Q_TIME.tolist(), _LOG_RHO.tolist(), strict=True)
)


@functools.lru_cache(maxsize=1024)
def _change(gap: int) -> tuple[Floats, Floats, Floats]:
    """Return ρ^gap, its square and the variance of the step after `gap` pulls of the run, each [HYPOTHESES]."""
    decay = np.exp(_LOG_RHO * gap)
    return decay, decay * decay, _Q_OWN + _Q_TIME * gap


@functools.cache
def _ahead(count: int) -> Floats:
    """Return 0, 1, 2, …, [count]."""
    return np.arange(count, dtype=float)


class FilterBank:
    """The filters of all arms.

    Args:
        arms: The number of arms.
        memory: The factor on the weight of a step in S, D and n for each later step; in (0, 1).

    Attributes:
        count: The number of rewards of each arm.
    """

    def __init__(self, arms: int, memory: float) -> None:
        self.count = [0] * arms
        self._memory = memory
        self._mean = np.zeros((arms, HYPOTHESES))
        self._variance = np.ones((arms, HYPOTHESES))
        # The number of each arm's last rewarded pull.
        self._last = [0] * arms
        self._squares = np.zeros(HYPOTHESES)
        self._logs = np.zeros(HYPOTHESES)
        self._steps = 0.0
        self._largest = 0.0
        self._floor = _TINY
        # The probability of each hypothesis relative to the most probable one, and the index of that one.
        self._weights = np.ones(HYPOTHESES)
        self._likely = 0

    def rescale(self, factor: float) -> None:
        """Multiply all rewards so far by a factor."""
        self._mean *= factor
        self._squares *= factor * factor
        self._largest *= factor
        self._floor = (_ROUNDING * self._largest) ** 2 or _TINY

    def update(self, number: int, arm: int, reward: float) -> tuple[float, float]:
        """Add the reward of pull `number`.

        A late reward was observed before the changes since then, which add to its noise.

        Returns:
            Two numbers of standard deviations under the most probable hypothesis: how far the reward was above its
            prediction (0 for an arm's first reward), and how far the arm's mean is now above 0.
        """
        if abs(reward) > self._largest:
            self._largest = abs(reward)
            self._floor = (_ROUNDING * self._largest) ** 2 or _TINY
        likely, surprise = self._likely, 0.0
        mean, variance = self._mean[arm], self._variance[arm]
        gap = number - self._last[arm]
        if not self.count[arm]:
            mean[:] = reward
        else:
            if gap > 0:
                decay, squared, step = _change(gap)
                mean *= decay
                variance *= squared
                variance += step
                spread = variance + 1.0
            else:
                blur = 1.0 + _Q_OWN - _Q_TIME * gap
                spread = variance + blur
            error = reward - mean
            surprise = error.item(likely) / math.sqrt(spread.item(likely) * self.noise_variance(likely))
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
        return surprise, mean.item(likely) / math.sqrt(variance.item(likely) * self.noise_variance(likely))

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
        """The probability of each hypothesis, [HYPOTHESES]; they sum to 1."""
        return np.asarray(self._weights / self._weights.sum())

    def draw(self, shares: Floats) -> Ints:
        """Draw hypotheses by their weights, one for each number of `shares`, which are uniform in [0, 1)."""
        cumulative = np.add.accumulate(self._weights)
        drawn: Ints = cumulative.searchsorted(shares * cumulative.item(-1), "right")
        np.minimum(drawn, HYPOTHESES - 1, out=drawn)
        return drawn

    def noise_variance(self, hypothesis: int) -> float:
        """Return σ² under a hypothesis; above 0. Until an arm has two rewards it is the variance between the arms."""
        if self._steps:
            return (self._squares.item(hypothesis) + self._floor) / self._steps
        seen = self._mean[[count > 0 for count in self.count], 0]
        if not len(seen):
            return self._floor
        # The same as numpy's `var`, whose call overhead is three times as large.
        deviations = seen - np.add.reduce(seen) / len(seen)
        return float(np.add.reduce(deviations * deviations)) / len(seen) + self._floor

    def predict(self, now: int, hypothesis: int) -> tuple[list[float], list[float]]:
        """Predict the mean of each arm's reward at pull `now`, and its variance in units of σ², both [arms].

        `now` is later than every pull rewarded so far. Arms without rewards get the average of the others' means, and
        the variance that an arm has after one reward.
        """
        own, time, log_rho = _HYPOTHESES[hypothesis]
        means, variances = self._mean[:, hypothesis].tolist(), self._variance[:, hypothesis].tolist()
        for arm, last in enumerate(self._last):
            gap = now - last
            if log_rho:
                decay = math.exp(gap * log_rho)
                means[arm] *= decay
                variances[arm] *= decay * decay
            variances[arm] += gap * time + own
        if 0 in self.count:
            seen = [mean for mean, count in zip(means, self.count, strict=True) if count]
            for arm, count in enumerate(self.count):
                if not count:
                    means[arm], variances[arm] = (sum(seen) / len(seen) if seen else 0.0), 1.0
        return means, variances

    def predict_ahead(self, now: int, hypotheses: Ints) -> tuple[Floats, Floats, Floats]:
        """Predict pull `now` and those after it, each under a hypothesis of its own.

        Returns:
            Means and variances as of `predict`, both [arms, hypotheses], and σ², [hypotheses].
        """
        arms = len(self.count)
        # All quantities in one table: one look-up instead of six, which take longer than the arithmetic.
        table = np.concatenate((_PARAMETERS, self._squares[None], self._mean, self._variance))
        columns = table.take(hypotheses, axis=1)
        own, time, log_rho, squares = columns[:4]
        means, variances = columns[4 : 4 + arms], columns[4 + arms :]
        gaps = np.add.outer([now - last for last in self._last], _ahead(len(hypotheses)))
        decay = np.exp(log_rho * gaps)
        means *= decay
        decay *= decay
        variances *= decay
        gaps *= time
        variances += gaps
        variances += own
        if 0 in self.count:
            seen = np.array(self.count) > 0
            # A mean of rows: numpy rounds the sum of a column differently.
            means[~seen] = np.ascontiguousarray(means[seen].T).mean(axis=1) if seen.any() else 0.0
            variances[~seen] = 1.0
        if not self._steps:
            return means, variances, np.full(len(hypotheses), self.noise_variance(0))
        squares += self._floor
        squares /= self._steps
        return means, variances, squares

    def average(self, now: int) -> tuple[Floats, Floats, Floats]:
        """Average over the hypotheses.

        Returns:
            The mean and standard deviation of each arm's mean reward at pull `now`, and its effective count, [arms].
        """
        weights = self.weights
        noise = np.array([self.noise_variance(hypothesis) for hypothesis in range(HYPOTHESES)])
        gap = (now - np.array(self._last))[:, None]
        decay = np.exp(_LOG_RHO * gap)
        means, variances = self._mean * decay, self._variance * decay * decay + (_Q_OWN + _Q_TIME * gap)
        seen = np.array(self.count) > 0
        means[~seen] = means[seen].mean(axis=0) if seen.any() else 0.0
        variances[~seen] = 1.0
        mean = means @ weights
        variance = (variances * noise + (means - mean[:, None]) ** 2) @ weights
        # Under a hypothesis without change the variance falls to 0.
        count = np.minimum((1 / np.maximum(variances, _TINY)) @ weights, self.count)
        return mean, np.sqrt(variance), count
