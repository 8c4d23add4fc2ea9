"""``raw_ucb``: the lowest upper confidence bound over windows of all sizes."""

from __future__ import annotations

import math

import numpy as np

from bandit_server.bandit.policy.index_policy import NEGLIGIBLE, IndexFunction, IndexPolicy
from bandit_server.bandit.policy.options import number
from bandit_server.bandit.posterior import Floats

# The widest window is 2^(LEVELS − 1) of an arm's own rewards.
LEVELS = 20
WIDTHS = 2.0 ** np.arange(LEVELS)


class GeometricWindows:
    """Sums of each arm's own last 1, 2, 4 … rewards; each sum is up to half a window old.

    A window of 2^j is renewed after every 2^(j−1) further rewards: its newer half is the beginning of the next. So the
    memory, and the time of a reward, are logarithmic in the number of rewards (Seznec et al., "Rotting bandits
    are no harder than stochastic ones", AISTATS 2019, the efficient update of EFF-FEWA).
    """

    def __init__(self, arms: int) -> None:
        self.sums = np.zeros((arms, LEVELS))
        self.full = np.zeros((arms, LEVELS), dtype=bool)
        self._pending = np.zeros((arms, LEVELS))
        self._filled = np.zeros((arms, LEVELS))

    def add(self, arm: int, age: int, value: float) -> None:
        """Add the reward of a pull."""
        pending, filled = self._pending[arm], self._filled[arm]
        pending += value
        filled += 1
        done = filled == WIDTHS
        self.sums[arm, done] = pending[done]
        self.full[arm, done] = True
        halves, counts = np.roll(pending, 1), np.roll(filled, 1)
        halves[0] = counts[0] = 0.0
        pending[done], filled[done] = halves[done], counts[done]

    def advance(self, pulls: int) -> None:
        """Do nothing: pulls without rewards change no window."""

    def rescale(self, factor: float) -> None:
        """Multiply all rewards so far by a factor."""
        self.sums *= factor
        self._pending *= factor

    def estimates(self) -> tuple[Floats, Floats]:
        """Return mean and count of each arm's widest full window, both [arms]."""
        widest = np.maximum(self.full.sum(axis=1) - 1, 0)
        count = np.where(self.full[:, 0], WIDTHS[widest], 0.0)
        return self.sums[np.arange(len(count)), widest] / WIDTHS[widest], count


class RawUCB(IndexPolicy):
    """RAW-UCB with geometric windows (EFF-RAW-UCB).

    Seznec et al., "A Single Algorithm for Both Restless and Rested Rotting Bandits", AISTATS 2020. With r̄_k^h the mean
    of arm k's own last h rewards, h = 1, 2, 4 …, and t the pulls so far, the arm with the highest

        min over h of  r̄_k^h + √(2·σ²·α·log(t) / h)        is played.

    If arms only rot, recent rewards are below older ones, and the lowest bound is of the window that shows the decay.

    Args:
        arms: The number of arms.
        alpha: α: the confidence level is t^−α; 0 to 100.

    Raises:
        ValueError: An option is out of range.
    """

    estimator: GeometricWindows

    def __init__(self, arms: int, *, alpha: float = 1.0) -> None:
        super().__init__(arms, GeometricWindows(arms))
        self._alpha = number("alpha", alpha, 0, 100)

    def index_function(self, rng: np.random.Generator) -> IndexFunction:
        """Return the current index function."""
        mean, count = self.estimates()
        full = self.estimator.full
        used = int(full.sum(axis=1).max())
        means = np.where(full, self.estimator.sums, np.inf)[:, :used] / WIDTHS[:used]
        # An arm without history has the average of the other means.
        means[count == 0, 0] = mean[count == 0]
        widths = np.where(count[:, None] == 0, 0.0, WIDTHS[:used])
        wide = self.sigma * math.sqrt(2 * self._alpha * math.log(max(self.pulls, 1)))

        def index(flying: Floats) -> Floats:
            count = np.maximum(widths + flying[:, None], NEGLIGIBLE)
            return np.asarray((means + wide / np.sqrt(count)).min(axis=1))

        return index
