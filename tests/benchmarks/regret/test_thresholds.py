"""What is concluded from regrets, on regrets made up for it."""

from __future__ import annotations

import math

import pytest

from benchmarks.regret.thresholds import bar, cells, ranking, report

FIRST, SECOND = ("rotting", 200, 3), ("coupled", 200, 3)
RESULTS = {
    FIRST: {
        "optima": [1.0, 2.0, 3.0, 2.0],
        "sliding_window_ts": [2.0, 3.0, 4.0, 3.0],
        "round_robin": [9.0, 9.0, 9.0, 9.0],
        "uniform": [10.0, 10.0, 10.0, 10.0],
    },
    SECOND: {
        "optima": [6.0, 7.0, 6.0, 7.0],
        "sliding_window_ts": [5.0, 6.0, 5.0, 6.0],
        "round_robin": [7.0, 6.0, 7.0, 8.0],
        "uniform": [6.5, 6.5, 6.5, 6.5],
    },
}
TRACE = {("trace:x", 60, 3): {name: [0.0, 0.0, 0.0, 0.0] for name in RESULTS[FIRST]}}


def test_a_cell_tells_mean_error_worst_seed_and_paired_wins() -> None:
    told = cells(RESULTS)[1]["players"]
    assert told["sliding_window_ts"]["mean"] == 5.5
    assert told["sliding_window_ts"]["standard_error"] == pytest.approx(math.sqrt(1 / 3) / 2)
    assert told["optima"]["worst"] == 7.0
    assert told["round_robin"]["optima_wins"] == 3
    assert told["sliding_window_ts"]["optima_wins"] == 0


def test_the_ranking_is_by_geometric_mean_with_one_percent_of_uniforms_regret_added() -> None:
    scores = {place["player"]: place["score"] for place in ranking(RESULTS)}
    assert scores["optima"] == pytest.approx(math.sqrt((2 + 0.1) * (6.5 + 0.065)))
    assert scores["uniform"] == pytest.approx(math.sqrt(10.1 * 6.565))
    assert list(scores) == ["optima", "sliding_window_ts", "round_robin", "uniform"]


def test_the_bar_counts_cells_below_the_reference_and_names_those_above() -> None:
    found = bar(RESULTS)
    assert (found["below_reference"], found["compared"]) == (1, 2)
    assert found["above_reference"] == [SECOND]
    assert found["worst_above_uniform"] == [SECOND]
    (coupled,) = found["coupled"]
    assert (coupled["cell"], coupled["mean"], coupled["optima_wins"]) == (SECOND, 0.5, 3)


def test_a_difference_within_its_interval_or_within_five_percent_is_not_above() -> None:
    noisy = {FIRST: {**RESULTS[FIRST], "optima": [2.0, 3.0, 14.0, 1.0]}}
    assert bar(noisy)["above_reference"] == []
    close = {FIRST: {**RESULTS[FIRST], "optima": [1.04 * regret for regret in RESULTS[FIRST]["sliding_window_ts"]]}}
    assert bar(close)["above_reference"] == []
    worse = {FIRST: {**RESULTS[FIRST], "optima": [1.06 * regret for regret in RESULTS[FIRST]["sliding_window_ts"]]}}
    assert bar(worse)["above_reference"] == [FIRST]


def test_a_player_that_did_not_play_is_compared_with_nobody() -> None:
    alone = {FIRST: {"optima": [1.0, 2.0], "uniform": [3.0, 4.0]}}
    found = bar(alone)
    assert (found["compared"], found["below_reference"], found["above_reference"], found["coupled"]) == (None,) * 4
    assert "not compared" in report(alone)
    nobody = {FIRST: {"uniform": [3.0, 4.0]}}
    assert bar(nobody)["worst_above_uniform"] is None
    assert cells(nobody)[0]["players"]["uniform"]["optima_wins"] is None


def test_a_single_seed_has_no_error_and_no_interval() -> None:
    single = {cell: {name: regrets[:1] for name, regrets in by.items()} for cell, by in RESULTS.items()}
    assert cells(single)[0]["players"]["optima"]["standard_error"] is None
    assert bar(single)["above_reference"] == []
    assert "rotting, 200 pulls of 3 arms" in report(single)


def test_recorded_traces_are_told_but_count_for_nothing() -> None:
    both = {**RESULTS, **TRACE}
    assert ranking(both) == ranking(RESULTS)
    assert bar(both) == bar(RESULTS)
    assert len(cells(both)) == 3
    assert "trace:x, 60 pulls of 3 arms" in report(both)
    assert "in 1 of 2 cells (50%)" in report(both)
    assert (ranking(TRACE), bar(TRACE)["compared"]) == ([], None)
