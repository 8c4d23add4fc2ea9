"""Fewer points must never mean that something extraordinary is not shown."""

from hypothesis import given
from hypothesis import strategies as st

from bandit_server.dashboard.downsample import keep_extremes
from bandit_server.dashboard.series import Series

VALUES = st.none() | st.floats(-1e6, 1e6, allow_nan=False)


@st.composite
def columns(draw: st.DrawFn) -> list[list[float | None]]:
    rows = draw(st.integers(0, 300))
    return draw(st.lists(st.lists(VALUES, min_size=rows, max_size=rows), min_size=1, max_size=4))


@given(columns(), st.integers(2, 120))
def test_every_extreme_and_a_gap_of_every_column_are_kept(table: list[list[float | None]], limit: int) -> None:
    kept = keep_extremes(table, limit)
    for column in table:
        numbers = [value for value in column if value is not None]
        shown = [column[row] for row in kept]
        assert (None in shown) == (None in column)
        shown_numbers = [value for value in shown if value is not None]
        assert bool(shown_numbers) == bool(numbers)
        if numbers:
            assert (min(shown_numbers), max(shown_numbers)) == (min(numbers), max(numbers))


@given(columns(), st.integers(2, 120))
def test_rows_stay_in_order_with_both_ends_and_within_the_bound(table: list[list[float | None]], limit: int) -> None:
    rows = len(table[0])
    kept = keep_extremes(table, limit)
    assert kept == sorted(set(kept))
    assert len(kept) <= max(limit, 2 + 3 * len(table))
    if rows <= limit:
        assert kept == list(range(rows))
    else:
        assert kept[0] == 0
        assert kept[-1] == rows - 1


def test_a_spike_of_one_round_in_ten_thousand_is_still_there() -> None:
    series = Series("total", "loss", 0, [[]])
    for x in range(10_000):
        series.add(x + 1, x, 99.0 if x == 4_321 else 1.0)
    thinned = series.thinned(500)
    assert len(thinned["x"]) <= 500
    assert thinned["y"][0][thinned["x"].index(4_321)] == 99.0


def test_a_late_point_finds_its_place_and_news_are_only_what_is_new() -> None:
    series = Series("total", "loss", 0, [[]])
    for version, x in enumerate([0, 1, 4, 2], start=1):
        series.add(version, x, float(x))
    assert series.thinned(100)["x"] == [0, 1, 2, 4]
    news = series.since(3)
    assert news is not None
    assert news["x"] == [2]
    assert series.since(4) is None


def test_what_is_no_number_is_a_gap() -> None:
    series = Series("total", "loss", 0, [[]])
    series.add(1, 0, float("inf"))
    series.add(2, 1, float("nan"))
    assert series.thinned(100)["y"] == [[None, None]]
