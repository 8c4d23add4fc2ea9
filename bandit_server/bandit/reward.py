"""What a round is worth (DESIGN.md §4)."""

from __future__ import annotations

import statistics
import sys
from collections import deque

# Round times kept for each worker and arm.
TIMES_KEPT = 21


def relative(before: float, after: float) -> float:
    """(before − after) / before: the share of the loss that went away. `before` is above 0; both are finite."""
    return _finite((before - after) / before)


def absolute(before: float, after: float) -> float:
    """before − after, in units of the loss; both are finite."""
    return _finite(before - after)


def per_cost(reward: float, cost: float) -> float:
    """A reward divided by its arm's relative cost, above 0 (Costs.relative)."""
    return _finite(reward / cost)


def _finite(value: float) -> float:
    """Two finite losses at the ends of the floating range may have a decrement that is not."""
    return max(-sys.float_info.max, min(sys.float_info.max, value))


class Costs:
    """How long rounds take: for rewards per cost."""

    def __init__(self) -> None:
        # By worker, then arm. A worker is there from its first round on, which itself is not counted: it compiles,
        # allocates and fills caches.
        self._seconds: dict[str, dict[int, deque[float]]] = {}

    def add(self, worker: str, arm: int, seconds: float) -> None:
        """A round of this worker on this arm took so long."""
        by_arm = self._seconds.get(worker)
        if by_arm is None:
            self._seconds[worker] = {}
            return
        if arm not in by_arm:
            by_arm[arm] = deque(maxlen=TIMES_KEPT)
        by_arm[arm].append(seconds)

    def relative(self, worker: str, arm: int) -> float:
        """The arm's median round time on this worker, divided by the mean of those medians over the arms; above 0.
        1 as long as it is not known."""
        medians = {at: statistics.median(times) for at, times in self._seconds.get(worker, {}).items()}
        mean = statistics.fmean(medians.values()) if medians else 0.0
        ratio = medians.get(arm, mean) / mean if mean > 0 else 1.0
        return ratio if ratio > 0 else 1.0
