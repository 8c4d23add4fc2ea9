"""Fewer points for a chart, with every extreme and every gap still there. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Column = NDArray[np.float64]


def keep_extremes(columns: Sequence[Column], limit: int) -> list[int]:
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
