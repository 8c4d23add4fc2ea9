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

import itertools
import math

import numpy as np

from bandit_server.bandit.posterior import Floats

OWN = (0.0, 0.003, 0.03, 0.3)
TIME = (0.0, 0.0003, 0.003, 0.03)
SHARED = (1.0, 0.995, 0.98, 0.95)
# A spread below this share of the rewards themselves is rounding, not information.
_ROUNDING = 1e-12

_OWN, _TIME, _SHARED = (np.array(values) for values in zip(*itertools.product(OWN, TIME, SHARED), strict=True))
_LOG_SHARED = np.log(_SHARED)
HYPOTHESES = len(_OWN)


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
        self._last = np.zeros(arms)
        self._squares = np.zeros(HYPOTHESES)
        self._logs = np.zeros(HYPOTHESES)
        self._steps = 0.0
        self._largest = 0.0

    def rescale(self, factor: float) -> None:
        """All rewards so far are to be multiplied with this."""
        self._mean *= factor
        self._squares *= factor * factor
        self._largest *= factor

    def learn(self, number: int, arm: int, reward: float) -> None:
        """What pull `number` brought. One that comes late was seen before the change since, which blurs it."""
        self._largest = max(self._largest, abs(reward))
        gap = number - self._last[arm]
        if not self.count[arm]:
            self._mean[arm] = reward
            self._variance[arm] = 1.0
        else:
            if gap > 0:
                change = np.exp(_LOG_SHARED * gap)
                mean = self._mean[arm] * change
                prior = self._variance[arm] * change * change + (_OWN + _TIME * gap)
                blur = 1.0
            else:
                mean, prior = self._mean[arm], self._variance[arm]
                blur = 1.0 + _OWN - _TIME * gap
            spread = prior + blur
            error = reward - mean
            gain = prior / spread
            self._mean[arm] = mean + gain * error
            self._variance[arm] = gain * blur
            self._squares = self._squares * self._memory + error * error / spread
            self._logs = self._logs * self._memory + np.log(spread)
            self._steps = self._steps * self._memory + 1.0
        self.count[arm] += 1
        self._last[arm] = max(number, self._last[arm])

    def weights(self) -> Floats:
        """How probable each hypothesis is, [HYPOTHESES]."""
        if not self._steps:
            return np.full(HYPOTHESES, 1 / HYPOTHESES)
        log = -0.5 * (self._logs + self._steps * np.log(self._squares + self._floor))
        weights = np.exp(log - log.max())
        return np.asarray(weights / weights.sum())

    def noise(self) -> Floats:
        """σ² under each hypothesis, [HYPOTHESES]; above 0. Before any arm has two rewards: the arms' spread."""
        if self._steps:
            return np.asarray((self._squares + self._floor) / self._steps)
        seen = self._mean[[count > 0 for count in self.count], 0]
        return np.full(HYPOTHESES, float(seen.var()) + self._floor)

    def predict(self, now: int, hypothesis: int) -> tuple[Floats, Floats]:
        """Mean of each arm's reward were it pulled now, and its variance in units of σ², both [arms].

        Arms without rewards are as the average of the others, and as uncertain as one reward leaves an arm.
        """
        mean, variance = self._predict(now, slice(hypothesis, hypothesis + 1))
        return mean[:, 0], variance[:, 0]

    def _predict(self, now: int, hypotheses: slice) -> tuple[Floats, Floats]:
        """As `predict`, for several hypotheses: [arms, hypotheses]."""
        gap = np.maximum(now - self._last, 0.0)[:, None]
        change = np.exp(_LOG_SHARED[hypotheses] * gap)
        mean = self._mean[:, hypotheses] * change
        variance = self._variance[:, hypotheses] * change * change + (_OWN[hypotheses] + _TIME[hypotheses] * gap)
        if 0 in self.count:
            unseen = [not count for count in self.count]
            seen = [count > 0 for count in self.count]
            mean[unseen] = mean[seen].mean(axis=0) if any(seen) else 0.0
            variance[unseen] = 1.0
        return mean, variance

    def averaged(self, now: int) -> tuple[Floats, Floats, Floats]:
        """Mean and standard deviation of each arm's mean reward, and its effective count, over all hypotheses."""
        weights, noise = self.weights(), self.noise()
        means, variances = self._predict(now, slice(None))
        mean = means @ weights
        variance = (variances * noise + (means - mean[:, None]) ** 2) @ weights
        count = np.minimum((1 / variances) @ weights, self.count)
        return mean, np.sqrt(variance), count

    @property
    def _floor(self) -> float:
        return (_ROUNDING * self._largest) ** 2 or math.ldexp(1.0, -1000)
