"""One line of a chart: points by pull number, in the order in which the server told them. Pure."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandit_server.dashboard.downsample import keep_extremes


class Series:
    """Points (x, t, value of every column), each with the run's version that brought it.

    x is a pull number and t the seconds of training in the run until then, all workers' together. A gap, in here NaN
    and outside None, is a round that was played and has no such number, because it diverged.
    """

    __slots__ = ("chart", "columns", "index", "name", "times", "versions", "xs")

    def __init__(self, chart: str, name: str, index: int, columns: int) -> None:
        self.chart = chart
        self.name = name
        self.index = index
        self.xs = array("q")
        self.times = array("d")
        self.versions = array("q")
        self.columns = [array("d") for _ in range(columns)]

    def add(self, version: int, x: int, t: float, *values: float | None) -> None:
        """Append a point; one with the x of the last point takes its place."""
        numbers = [math.nan if value is None or not math.isfinite(value) else value for value in values]
        if self.xs and self.xs[-1] == x:
            self.versions[-1], self.times[-1] = version, t
            for column, number in zip(self.columns, numbers, strict=True):
                column[-1] = number
            return
        self.xs.append(x)
        self.times.append(t)
        self.versions.append(version)
        for column, number in zip(self.columns, numbers, strict=True):
            column.append(number)

    def since(self, version: int) -> dict[str, Any] | None:
        """The points that came after a version, or nothing."""
        start = bisect_right(self.versions, version)
        if start == len(self.xs):
            return None
        return self._row(np.arange(start, len(self.xs)))

    def thinned(self, limit: int) -> dict[str, Any]:
        """All of it in about `limit` points, ordered by x."""
        order = np.argsort(np.array(self.xs), kind="stable")
        return self._row(order[keep_extremes([np.array(column)[order] for column in self.columns], limit)])

    def _row(self, rows: NDArray[np.int64]) -> dict[str, Any]:
        return {
            "chart": self.chart,
            "name": self.name,
            "index": self.index,
            "x": np.array(self.xs)[rows].tolist(),
            "t": np.array(self.times)[rows].round(3).tolist(),
            "y": [_shown(np.array(column)[rows]) for column in self.columns],
        }


def _shown(values: NDArray[np.float64]) -> list[float | None]:
    """With the seven digits that nobody can tell from more on a screen; gaps as None."""
    sizes = np.abs(np.nan_to_num(values, nan=1.0))
    places = 6 - np.floor(np.log10(np.where(sizes > 0, sizes, 1.0)))
    # Powers of ten beyond these are no floats any more: such numbers stay as they are.
    scale = 10.0 ** np.clip(places, -300, 300)
    rounded = np.where(np.abs(places) < 300, np.round(values * scale) / scale, values)
    return [None if gap else value for value, gap in zip(rounded.tolist(), np.isnan(values).tolist(), strict=True)]


def finite(value: float | None) -> float | None:
    """The value, or None where there is no number to draw."""
    return value if value is not None and math.isfinite(value) else None
