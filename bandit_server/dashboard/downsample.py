"""Fewer points for a chart, with every extreme and every gap still there. Pure."""

from __future__ import annotations

from collections.abc import Sequence

Column = Sequence[float | None]


def keep_extremes(columns: Sequence[Column], limit: int) -> list[int]:
    """Indices of the rows a chart needs, ascending.

    The rows are cut into equal buckets; of each bucket, for every column, its lowest and its highest value stay
    and one of its gaps (None), so that a spike or a diverged round is never averaged away. The first and the last
    row stay too. At most max(limit, 2 + 3 · columns) indices come back; with no more rows than `limit`, all do.
    """
    rows = len(columns[0])
    if rows <= limit:
        return list(range(rows))
    buckets = max(1, (limit - 2) // (3 * len(columns)))
    kept = {0, rows - 1}
    inner = rows - 2
    for bucket in range(buckets):
        start = 1 + bucket * inner // buckets
        stop = 1 + (bucket + 1) * inner // buckets
        for column in columns:
            kept.update(_extremes(column, start, stop))
    return sorted(kept)


def _extremes(column: Column, start: int, stop: int) -> set[int]:
    """Where the column is lowest, highest and absent between two rows."""
    lowest = highest = gap = -1
    low = high = 0.0
    for row in range(start, stop):
        value = column[row]
        if value is None:
            gap = row
            continue
        if lowest < 0 or value < low:
            lowest, low = row, value
        if highest < 0 or value > high:
            highest, high = row, value
    return {lowest, highest, gap} - {-1}
