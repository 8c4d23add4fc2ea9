"""The rounds of a worker that have a report, in bounded memory."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable

# A worker reports its rounds in order, so there is one range, and one more for every round it could not report.
MOST_RANGES = 64


class ReportedRounds:
    """A set of rounds, stored as ranges in order.

    With more than MOST_RANGES ranges the oldest gap is closed: its rounds count as reported, which changes nothing but
    `first_open`.
    """

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        pairs = list(ranges)
        self._starts = [start for start, _ in pairs]
        self._stops = [stop for _, stop in pairs]

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The ranges, each from its start up to, but without, its stop."""
        return list(zip(self._starts, self._stops, strict=True))

    def add(self, round: int) -> None:
        """Add a round."""
        at = bisect_right(self._starts, round)
        if at and round < self._stops[at - 1]:
            return
        joins_left = at > 0 and self._stops[at - 1] == round
        joins_right = at < len(self._starts) and self._starts[at] == round + 1
        if joins_left and joins_right:
            self._stops[at - 1] = self._stops.pop(at)
            del self._starts[at]
        elif joins_left:
            self._stops[at - 1] = round + 1
        elif joins_right:
            self._starts[at] = round
        else:
            self._starts.insert(at, round)
            self._stops.insert(at, round + 1)
            if len(self._starts) > MOST_RANGES:
                del self._starts[1]
                del self._stops[0]

    @property
    def first_open(self) -> int:
        """The first round without a report."""
        at = bisect_left(self._starts, 1)
        return self._stops[0] if at and self._starts[0] == 0 else 0
