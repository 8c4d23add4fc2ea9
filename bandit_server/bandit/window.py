"""The rewards of a run's last pulls."""

from __future__ import annotations

import numpy as np

from bandit_server.bandit.posterior import Floats


class Window:
    """The last `size` pulls of a run, whichever arm's, with the rewards that have come so far.

    Args:
        arms: How many there are.
        size: At least 1.
    """

    def __init__(self, arms: int, size: int) -> None:
        self._arms = arms
        # The place of pull number n is n % size; without a reward its arm is one that is not there.
        self._arm = np.full(size, arms, dtype=np.intp)
        self._value = np.zeros(size)
        self._next = 0

    def slide(self, pulls: int) -> None:
        """So many further pulls have been made; their rewards are still to come."""
        size = len(self._arm)
        gone = np.arange(self._next, self._next + min(pulls, size)) % size
        self._arm[gone] = self._arms
        self._value[gone] = 0.0
        self._next = (self._next + pulls) % size

    def put(self, arm: int, age: int, value: float) -> None:
        """The reward of a pull that `age` others have followed; one that has left the window is ignored."""
        size = len(self._arm)
        if age < size:
            place = (self._next - 1 - age) % size
            self._arm[place] = arm
            self._value[place] = value

    def rescale(self, factor: float) -> None:
        """Multiply all rewards."""
        self._value *= factor

    def estimates(self) -> tuple[Floats, Floats]:
        """Mean (0 where there is none) and number of each arm's rewards, both [arms]."""
        count = np.bincount(self._arm, minlength=self._arms + 1)[:-1].astype(float)
        total = np.bincount(self._arm, self._value, self._arms + 1)[:-1]
        return total / np.maximum(count, 1.0), count
