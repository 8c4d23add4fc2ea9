"""The lines of the charts: points over pull numbers and training time, and how they are thinned for a screen.

Pure: no clock, no network.
"""

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
    """Points (x, t, values) of one or more lines, each with the version of the run that brought it.

    x is a pull number; t is the training time of the run until then, in seconds, summed over all workers. A gap is a
    round without this number, because it diverged: NaN inside, None in what is returned.

    Args:
        chart: The chart that the lines belong to.
        lines: (name, index, columns) of each line; the columns say which values of a point are the line's.
        width: Number of values of a point.
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
        """Append a point, or replace the last point if it has the same x."""
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
        """Return each line with the points added after a version; an empty list if there are none."""
        start = bisect_right(self._versions, version)
        if start == len(self._xs):
            return []
        xs, times, table = np.array(self._xs[start:]), np.array(self._times[start:]), self._table(start)
        return [self._line(line, xs, times, table[:, list(line[2])].T) for line in self.lines]

    def thinned(self, limit: int) -> list[dict[str, Any]]:
        """Return each line from its first point to its last, ordered by x, thinned to about `limit` points."""
        xs, times, table = np.array(self._xs), np.array(self._times), self._table(0)
        order = np.argsort(xs, kind="stable")
        lines = []
        for line in self.lines:
            columns = table[order][:, list(line[2])].T
            rows = keep_extremes(list(columns), limit)
            lines.append(self._line(line, xs[order][rows], times[order][rows], columns[:, rows]))
        return lines

    def _table(self, start: int) -> Numbers:
        """Return the values, of shape [points from `start`, width]."""
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
            "y": [_to_json(column) for column in columns],
        }


class Shares(Series):
    """Each arm's share of the recent pulls. The value of a point is the index of the arm that was pulled.

    Recent are the last fiftieth of the pulls until then, at least 20: a window that grows with what the chart shows.
    """

    FEWEST = 20
    FRACTION = 50

    def __init__(self) -> None:
        super().__init__("share", [], 1)

    def _table(self, start: int) -> Numbers:
        # Each point counts the pulls [begin, end). Begins never fall, so the first begin is the earliest pull needed.
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
    """Running totals by arm index: training time, and the loss decrement that it bought.

    The rounds of the joint tail count for the arm `joint`.

    Attributes:
        seconds: Training time of all rounds so far, in seconds, summed over all workers.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._decrements: defaultdict[int, float] = defaultdict(float)
        self._seconds: defaultdict[int, float] = defaultdict(float)

    def add(self, arm: int, decrement: float, seconds: float) -> tuple[float, float]:
        """Add a round, and return the arm's totals: (loss decrement, training time in seconds)."""
        self.seconds += seconds
        self._seconds[arm] += seconds
        self._decrements[arm] += decrement
        return self._decrements[arm], self._seconds[arm]


def keep_extremes(columns: Sequence[Numbers], limit: int) -> list[int]:
    """Choose the rows that a chart needs, so that it still shows every extreme and every gap.

    The rows are cut into equal buckets. Of each bucket and column, the lowest value, the highest value and one gap are
    kept, so that a spike or a diverged round is never averaged away. The first and the last row are kept, too.

    Args:
        columns: Values of each column, [rows] each; NaN is a gap.
        limit: Number of rows to aim at.

    Returns:
        Row indices, ascending: at most max(limit, 2 + 3 · columns); all of them if there are no more than `limit`.
    """
    rows = len(columns[0])
    if rows <= limit:
        return list(range(rows))
    inner = rows - 2
    buckets = min(inner, max(1, (limit - 2) // (3 * len(columns))))
    size = -(-inner // buckets)
    starts = 1 + size * np.arange(-(-inner // size))
    chosen = [np.array([0, rows - 1])]
    for column in columns:
        # The last bucket is padded with NaN, which must not count as a gap.
        values = np.full((len(starts), size), np.nan)
        values.ravel()[:inner] = column[1:-1]
        gaps = np.isnan(values)
        has_values = ~gaps.all(axis=1)
        gaps.ravel()[inner:] = False
        chosen.append((starts + np.where(np.isnan(values), np.inf, values).argmin(axis=1))[has_values])
        chosen.append((starts + np.where(np.isnan(values), -np.inf, values).argmax(axis=1))[has_values])
        chosen.append((starts + gaps.argmax(axis=1))[gaps.any(axis=1)])
    return [int(row) for row in np.unique(np.concatenate(chosen))]


def _to_json(values: Numbers) -> list[float | None]:
    """Round to seven significant digits, more than a screen can show; None for what is not finite."""
    known = np.isfinite(values)
    sizes = np.abs(np.where(known & (values != 0), values, 1.0))
    places = 6 - np.floor(np.log10(sizes))
    # Larger powers of ten overflow; values that would need them are left as they are.
    scale = 10.0 ** np.clip(places, -300, 300)
    rounded = np.where(known & (np.abs(places) < 300), np.round(np.where(known, values, 0.0) * scale) / scale, values)
    return [value if good else None for value, good in zip(rounded.tolist(), known.tolist(), strict=True)]


def finite_or_nan(value: float | None) -> float:
    """Return the value, or NaN if it is missing or not finite."""
    return value if value is not None and math.isfinite(value) else math.nan


def finite(value: float | None) -> float | None:
    """Return the value, or None if it is missing or not finite."""
    return value if value is not None and math.isfinite(value) else None
