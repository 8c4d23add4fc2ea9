"""The points of charts, and how they are thinned for a screen. Pure."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


class Series:
    """Points (x, t, values), each with the run's version that brought it.

    x is a pull number and t the seconds of training in the run until then, all workers' together. A gap, in here NaN
    and outside None, is a round that was played and has no such number, because it diverged.

    Args:
        chart: Which chart the lines are for.
        lines: (name, index, columns) of each line: which of a point's values are its.
        width: How many values a point has.
    """

    def __init__(self, chart: str, lines: Sequence[tuple[str, int, Sequence[int]]], width: int) -> None:
        self.chart = chart
        self.lines = list(lines)
        self._width = width
        self._xs = array("q")
        self._times = array("d")
        self._versions = array("q")
        self._values = array("d")

    def add(self, version: int, x: int, t: float, values: Sequence[float]) -> None:
        """Append a point; one with the x of the last point takes its place."""
        if self._xs and self._xs[-1] == x:
            self._versions[-1], self._times[-1] = version, t
            self._values[-self._width :] = array("d", values)
            return
        self._xs.append(x)
        self._times.append(t)
        self._versions.append(version)
        self._values.extend(values)

    def __len__(self) -> int:
        return len(self._xs)

    def since(self, version: int) -> list[dict[str, Any]]:
        """The points that came after a version, if there are any."""
        start = bisect_right(self._versions, version)
        if start == len(self._xs):
            return []
        xs, times, table = np.array(self._xs[start:]), np.array(self._times[start:]), self._table(start)
        return [self._line(line, xs, times, table[:, list(line[2])].T) for line in self.lines]

    def thinned(self, limit: int) -> list[dict[str, Any]]:
        """All of it, each line in about `limit` points, ordered by x."""
        xs, times, table = np.array(self._xs), np.array(self._times), self._table(0)
        order = np.argsort(xs, kind="stable")
        told = []
        for line in self.lines:
            columns = table[order][:, list(line[2])].T
            kept = keep_extremes(list(columns), limit)
            told.append(self._line(line, xs[order][kept], times[order][kept], columns[:, kept]))
        return told

    def _table(self, start: int) -> Numbers:
        """Values [points from `start`, width]."""
        return np.array(self._values[start * self._width :]).reshape(-1, self._width)

    def _line(
        self, line: tuple[str, int, Sequence[int]], xs: Numbers, times: Numbers, columns: Numbers
    ) -> dict[str, Any]:
        return {
            "chart": self.chart,
            "name": line[0],
            "index": line[1],
            "x": xs.tolist(),
            "t": times.round(3).tolist(),
            "y": [_shown(column) for column in columns],
        }


class Shares(Series):
    """Each arm's share of the last pulls. A point's value is the index of the arm that was pulled.

    As many pulls are counted as recent as a run's shape is seen by: a fiftieth of those until then, 20 at least.
    """

    FEWEST = 20
    FRACTION = 50

    def __init__(self) -> None:
        super().__init__("share", [], 1)

    def _table(self, start: int) -> Numbers:
        # Pulls [begin, end) are counted at each point; begins never fall, so the first is the earliest pull needed.
        ends = np.arange(start + 1, len(self._xs) + 1)
        begins = np.maximum(ends - np.maximum(self.FEWEST, ends // self.FRACTION), 0)
        before = int(begins[0]) if len(begins) else start
        arms = np.array(self._values[before:], dtype=np.int64)
        pulled = np.zeros((len(arms) + 1, len(self.lines)))
        pulled[np.arange(1, len(arms) + 1), arms] = 1
        until = pulled.cumsum(axis=0)
        shares: Numbers = (until[ends - before] - until[begins - before]) / (ends - begins)[:, None]
        return shares


class ArmTotals:
    """Running totals of a run, by arm index; the tail's rounds are those of the arm `joint`.

    Attributes:
        seconds: Training seconds of all rounds so far, whoever trained them.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._bought: defaultdict[int, float] = defaultdict(float)
        self._spent: defaultdict[int, float] = defaultdict(float)

    def add(self, arm: int, decrement: float, seconds: float) -> tuple[float, float]:
        """A round of an arm ended. Returns the arm's (loss decrement, training seconds) in all until now."""
        self.seconds += seconds
        self._spent[arm] += seconds
        self._bought[arm] += decrement
        return self._bought[arm], self._spent[arm]


def keep_extremes(columns: Sequence[Numbers], limit: int) -> list[int]:
    """Indices of the rows a chart needs, ascending. `columns`: each [rows], NaN for a gap.

    The rows are cut into equal buckets; of each bucket, for every column, its lowest and its highest value stay
    and one of its gaps, so that a spike or a diverged round is never averaged away. The first and the last row stay
    too. At most max(limit, 2 + 3 · columns) indices come back; with no more rows than `limit`, all do.
    """
    rows = len(columns[0])
    if rows <= limit:
        return list(range(rows))
    inner = rows - 2
    buckets = min(inner, max(1, (limit - 2) // (3 * len(columns))))
    size = -(-inner // buckets)
    starts = 1 + size * np.arange(-(-inner // size))
    kept = [np.array([0, rows - 1])]
    for column in columns:
        # The last bucket is filled up with what is neither value nor gap.
        values = np.full((len(starts), size), np.nan)
        values.ravel()[:inner] = column[1:-1]
        gaps = np.isnan(values)
        known = ~gaps.all(axis=1)
        gaps.ravel()[inner:] = False
        kept.append((starts + np.where(np.isnan(values), np.inf, values).argmin(axis=1))[known])
        kept.append((starts + np.where(np.isnan(values), -np.inf, values).argmax(axis=1))[known])
        kept.append((starts + gaps.argmax(axis=1))[gaps.any(axis=1)])
    return [int(row) for row in np.unique(np.concatenate(kept))]


def _shown(values: Numbers) -> list[float | None]:
    """With the seven digits that nobody can tell from more on a screen; what is no number as None."""
    known = np.isfinite(values)
    sizes = np.abs(np.where(known & (values != 0), values, 1.0))
    places = 6 - np.floor(np.log10(sizes))
    # Powers of ten beyond these are no floats any more: such numbers stay as they are.
    scale = 10.0 ** np.clip(places, -300, 300)
    rounded = np.where(known & (np.abs(places) < 300), np.round(np.where(known, values, 0.0) * scale) / scale, values)
    return [value if good else None for value, good in zip(rounded.tolist(), known.tolist(), strict=True)]


def number(value: float | None) -> float:
    """The value, NaN where there is no number to draw."""
    return value if value is not None and math.isfinite(value) else math.nan


def finite(value: float | None) -> float | None:
    """The value, or None where there is no number to draw."""
    return value if value is not None and math.isfinite(value) else None
