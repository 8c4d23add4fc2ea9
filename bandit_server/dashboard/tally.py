"""Where a run's pulls and seconds went, and what they bought, arm by arm. Pure."""

from __future__ import annotations

from collections import defaultdict, deque

# Pulls that count as recent in "share of recent pulls".
RECENT = 20


class Tally:
    """Running totals of a run, by arm index. The tail's rounds count as pulls of their arm, `joint`.

    Attributes:
        seconds: Training seconds of all rounds so far, whoever trained them.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._recent: deque[int] = deque(maxlen=RECENT)
        self._bought: defaultdict[int, float] = defaultdict(float)
        self._spent: defaultdict[int, float] = defaultdict(float)

    def pulled(self, arm: int) -> None:
        """An arm was chosen."""
        self._recent.append(arm)

    def share(self, arm: int) -> float:
        """An arm's share of the last pulls."""
        return self._recent.count(arm) / len(self._recent)

    def trained(self, arm: int, decrement: float, seconds: float) -> tuple[float, float]:
        """A round of an arm ended. Returns the arm's (loss decrement, training seconds) in all until now."""
        self.seconds += seconds
        self._spent[arm] += seconds
        self._bought[arm] += decrement
        return self._bought[arm], self._spent[arm]
