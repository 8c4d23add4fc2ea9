"""Thinned lines still show every extreme and every gap."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from bandit_server.dashboard.view.series import Numbers, Series, keep_extremes


def one_line() -> Series:
    """Return a series with one line of one value."""
    return Series("total", [("loss", 0, (0,))], 1)


# [columns, rows]; half of the values are gaps, or all the same, in many of them.
TABLES = arrays(
    np.float64,
    array_shapes(min_dims=2, max_dims=2, max_side=300).map(lambda shape: (1 + shape[0] % 4, shape[1])),
    elements=st.just(np.nan) | st.floats(-1e6, 1e6, width=32),
)


@settings(deadline=None)
@given(TABLES, st.integers(2, 120))
def test_every_extreme_and_a_gap_of_every_column_are_kept(table: Numbers, limit: int) -> None:
    rows_kept = keep_extremes(list(table), limit)
    for column in table:
        shown = column[rows_kept]
        assert np.isnan(shown).any() == np.isnan(column).any()
        assert np.isnan(shown).all() == np.isnan(column).all()
        if not np.isnan(column).all():
            assert (np.nanmin(shown), np.nanmax(shown)) == (np.nanmin(column), np.nanmax(column))


@settings(deadline=None)
@given(TABLES, st.integers(2, 120))
def test_rows_stay_in_order_with_both_ends_and_within_the_bound(table: Numbers, limit: int) -> None:
    rows = table.shape[1]
    rows_kept = keep_extremes(list(table), limit)
    assert rows_kept == sorted(set(rows_kept))
    assert len(rows_kept) <= max(limit, 2 + 3 * len(table))
    if rows <= limit:
        assert rows_kept == list(range(rows))
    else:
        assert rows_kept[0] == 0
        assert rows_kept[-1] == rows - 1


@settings(deadline=None)
@given(st.integers(200, 3000), st.integers(0, 10**6), st.integers(30, 200))
def test_no_stretch_of_a_line_loses_its_peak_or_its_trough(rows: int, seed: int, limit: int) -> None:
    """A chart with one column of pixels per bucket looks the same."""
    column = np.random.default_rng(seed).standard_normal(rows).cumsum()
    rows_kept = np.array(keep_extremes([column], limit))
    size = -(-(rows - 2) // max(1, (limit - 2) // 3))
    for start in range(1, rows - 1, size):
        stretch = column[start : min(start + size, rows - 1)]
        shown = (
            column[rows_kept[(rows_kept >= start) & (rows_kept < min(start + size, rows - 1))]]
            if limit < rows
            else stretch
        )
        assert (shown.min(), shown.max()) == (stretch.min(), stretch.max())


def test_a_spike_of_one_round_in_ten_thousand_is_still_there() -> None:
    series = one_line()
    for x in range(10_000):
        series.add(x + 1, x, float(x), (99.0 if x == 4_321 else 1.0,))
    (thinned,) = series.thinned(500)
    assert len(thinned["x"]) <= 500
    assert thinned["y"][0][thinned["x"].index(4_321)] == 99.0


def test_a_late_point_is_sorted_in_and_since_returns_only_new_points() -> None:
    series = one_line()
    for version, x in enumerate([0, 1, 4, 2], start=1):
        series.add(version, x, 2.0 * x, (float(x),))
    assert series.thinned(100)[0]["x"] == [0, 1, 2, 4]
    assert series.thinned(100)[0]["t"] == [0.0, 2.0, 4.0, 8.0]
    (news,) = series.since(3)
    assert news["x"] == [2]
    assert series.since(4) == []


def test_a_value_that_is_not_finite_is_a_gap() -> None:
    series = one_line()
    series.add(1, 0, 0.0, (float("inf"),))
    series.add(2, 1, 0.0, (float("nan"),))
    assert series.thinned(100)[0]["y"] == [[None, None]]


@settings(deadline=None)
@given(st.lists(st.none() | st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=40))
def test_values_have_seven_digits_and_gaps_are_none(values: list[float | None]) -> None:
    series = one_line()
    for x, value in enumerate(values):
        series.add(x, x, 0.0, (np.nan if value is None else value,))
    (sent,) = series.thinned(100)[0]["y"]
    assert [value is None for value in sent] == [value is None for value in values]
    for value, given_value in zip(sent, values, strict=True):
        assert value is None or given_value is None or abs(value - given_value) <= 1e-6 * abs(given_value)
