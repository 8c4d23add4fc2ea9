"""Where a run's seconds went, and what they bought, arm by arm. Pure."""

from __future__ import annotations

from collections import defaultdict


class Tally:
    """Running totals of a run, by arm index; the tail's rounds are those of the arm `joint`.

    Attributes:
        seconds: Training seconds of all rounds so far, whoever trained them.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._bought: defaultdict[int, float] = defaultdict(float)
        self._spent: defaultdict[int, float] = defaultdict(float)

    def trained(self, arm: int, decrement: float, seconds: float) -> tuple[float, float]:
        """A round of an arm ended. Returns the arm's (loss decrement, training seconds) in all until now."""
        self.seconds += seconds
        self._spent[arm] += seconds
        self._bought[arm] += decrement
        return self._bought[arm], self._spent[arm]
