"""What a distillation has cost, by calibrated seconds: counts of each kind of work, times what one costs alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Ledger:
    """Counts work; the clock of the run itself decides nothing, so that a noisy machine does not either.

    Attributes:
        seconds: Of one piece of work by its kind, such as ``step/image`` or ``probe/image``, measured once.
        counts: Pieces of work so far.
    """

    seconds: Mapping[str, float]
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, count: int = 1) -> None:
        """So much work was done. Raises KeyError where it is not known what that kind costs."""
        if kind not in self.seconds:
            raise KeyError(f"what {kind!r} costs was not measured; known are {', '.join(sorted(self.seconds))}")
        self.counts[kind] += count

    @property
    def spent(self) -> float:
        """Calibrated seconds so far."""
        return sum(self.seconds[kind] * count for kind, count in self.counts.items())
