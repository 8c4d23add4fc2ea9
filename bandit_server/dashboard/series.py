"""One line of a chart: points by pull number, in the order in which the server told them. Pure."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any

from bandit_server.dashboard.downsample import keep_extremes


@dataclass(slots=True)
class Series:
    """Points (x, value of every column), each with the run's version that brought it.

    x is a pull number. A None is a gap: a round that was played and has no such number, because it diverged.
    """

    chart: str
    name: str
    index: int
    columns: list[list[float | None]]
    xs: list[int] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)

    def add(self, version: int, x: int, *values: float | None) -> None:
        """Append a point; one with the x of the last point takes its place."""
        if self.xs and self.xs[-1] == x:
            self.versions[-1] = version
            for column, value in zip(self.columns, values, strict=True):
                column[-1] = finite(value)
            return
        self.xs.append(x)
        self.versions.append(version)
        for column, value in zip(self.columns, values, strict=True):
            column.append(finite(value))

    def since(self, version: int) -> dict[str, Any] | None:
        """The points that came after a version, or nothing."""
        start = bisect_right(self.versions, version)
        if start == len(self.xs):
            return None
        return self._row(list(range(start, len(self.xs))))

    def thinned(self, limit: int) -> dict[str, Any]:
        """All of it in about `limit` points, ordered by x."""
        order = range(len(self.xs))
        if any(after < before for before, after in zip(self.xs, self.xs[1:], strict=False)):
            order_by_x = sorted(order, key=self.xs.__getitem__)
        else:
            order_by_x = list(order)
        kept = keep_extremes([[column[at] for at in order_by_x] for column in self.columns], limit)
        return self._row([order_by_x[at] for at in kept])

    def _row(self, rows: list[int]) -> dict[str, Any]:
        return {
            "chart": self.chart,
            "name": self.name,
            "index": self.index,
            "x": [self.xs[at] for at in rows],
            "y": [[column[at] for at in rows] for column in self.columns],
        }


def finite(value: float | None) -> float | None:
    """The value, or None where there is no number to draw."""
    return value if value is not None and math.isfinite(value) else None
