"""The reward of a round: the decrement of the probe loss, and its relation to the round's cost."""

from __future__ import annotations

import statistics
import sys
from collections import deque

# Round times stored for each worker and arm.
TIMES_KEPT = 21


def relative(before: float, after: float) -> float:
    """Return (before − after) / before, the fraction of the loss removed. `before` is above 0; both are finite."""
    return _finite((before - after) / before)


def absolute(before: float, after: float) -> float:
    """Return before − after, in units of the loss. Both are finite."""
    return _finite(before - after)


def per_cost(reward: float, cost: float) -> float:
    """Return a reward divided by its arm's relative cost (Costs.relative), which is above 0."""
    return _finite(reward / cost)


def _finite(value: float) -> float:
    """Clip to the floating range: the decrement of two finite losses may overflow."""
    return max(-sys.float_info.max, min(sys.float_info.max, value))


class Costs:
    """The cost of each arm: how long its rounds take on each worker."""

    def __init__(self) -> None:
        # By worker, then arm. The first round of a worker adds the worker but is not counted: it compiles, allocates
        # and fills caches.
        self._seconds: dict[str, dict[int, deque[float]]] = {}

    def add(self, worker: str, arm: int, seconds: float) -> None:
        """Add the duration of a worker's round on an arm."""
        by_arm = self._seconds.get(worker)
        if by_arm is None:
            self._seconds[worker] = {}
            return
        if arm not in by_arm:
            by_arm[arm] = deque(maxlen=TIMES_KEPT)
        by_arm[arm].append(seconds)

    def relative(self, worker: str, arm: int) -> float:
        """Return the relative cost of an arm on a worker; above 0, and 1 while it is unknown.

        It is the arm's median round time on this worker, divided by the mean of those medians over the arms.
        """
        medians = {at: statistics.median(times) for at, times in self._seconds.get(worker, {}).items()}
        mean = statistics.fmean(medians.values()) if medians else 0.0
        ratio = medians.get(arm, mean) / mean if mean > 0 else 1.0
        return ratio if ratio > 0 else 1.0
