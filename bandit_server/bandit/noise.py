"""The standard deviation of the rewards' noise, estimated online."""

from __future__ import annotations

import math
from statistics import pvariance

# The weight of a difference is multiplied by this for each later one: about the last fifty decide.
MEMORY = 0.98
# A spread below this fraction of the rewards themselves is rounding error.
_ROUNDING = 1e-12


class Noise:
    """Estimates σ from successive differences.

    Two successive rewards of one arm and one worker differ by the noise of both, and by little else even if the mean
    drifts:

        σ² = Σ wᵢ·(rᵢ − r'ᵢ)²/2 / Σ wᵢ,        r' the reward before r of the same (arm, worker), w = MEMORY^age

    (the mean square successive difference: von Neumann et al., Annals of Mathematical Statistics 1941, discounted).
    The variance between the arms' first rewards counts as the first difference, so that σ never rests on a single
    difference, which may happen to be 0.
    """

    def __init__(self) -> None:
        # The last reward by arm and worker.
        self._last: dict[tuple[int, str], float] = {}
        self._squares = 0.0
        self._weight = 0.0
        self._largest = 0.0

    def update(self, arm: int, worker: str, reward: float) -> None:
        """Add a reward, scaled so that its square is finite."""
        self._largest = max(self._largest, abs(reward))
        before = self._last.get((arm, worker))
        if before is not None:
            if not self._weight:
                self._squares, self._weight = self._variance_between_arms(), 1.0
            self._squares = MEMORY * self._squares + (reward - before) ** 2 / 2
            self._weight = MEMORY * self._weight + 1.0
        self._last[arm, worker] = reward

    def rescale(self, factor: float) -> None:
        """Multiply all rewards so far by a factor."""
        self._last = {key: reward * factor for key, reward in self._last.items()}
        self._squares *= factor * factor
        self._largest *= factor

    @property
    def sigma(self) -> float:
        """The standard deviation of a reward's noise; above 0."""
        variance = self._squares / self._weight if self._weight else self._variance_between_arms()
        return math.sqrt(variance) + (_ROUNDING * self._largest or math.ldexp(1.0, -500))

    def _variance_between_arms(self) -> float:
        return pvariance(self._last.values()) if self._last else 0.0
