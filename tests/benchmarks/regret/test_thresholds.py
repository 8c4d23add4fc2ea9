"""The statistics of invented regrets."""

from __future__ import annotations

import math

import pytest

from benchmarks.regret.thresholds import cell_statistics, compare_with_thresholds, ranking, report

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


def test_a_cell_has_mean_error_worst_seed_and_paired_wins() -> None:
    players = cell_statistics(RESULTS)[1]["players"]
    assert players["sliding_window_ts"]["mean"] == 5.5
    assert players["sliding_window_ts"]["standard_error"] == pytest.approx(math.sqrt(1 / 3) / 2)
    assert players["optima"]["worst"] == 7.0
    assert players["round_robin"]["optima_wins"] == 3
    assert players["sliding_window_ts"]["optima_wins"] == 0


def test_the_ranking_is_by_geometric_mean_with_one_percent_of_uniforms_regret_added() -> None:
    scores = {place["player"]: place["score"] for place in ranking(RESULTS)}
    assert scores["optima"] == pytest.approx(math.sqrt((2 + 0.1) * (6.5 + 0.065)))
    assert scores["uniform"] == pytest.approx(math.sqrt(10.1 * 6.565))
    assert list(scores) == ["optima", "sliding_window_ts", "round_robin", "uniform"]


def test_the_comparison_counts_cells_below_the_reference_and_names_those_above() -> None:
    comparison = compare_with_thresholds(RESULTS)
    assert (comparison["below_reference"], comparison["compared"]) == (1, 2)
    assert comparison["above_reference"] == [SECOND]
    assert comparison["worst_above_uniform"] == [SECOND]
    (coupled,) = comparison["coupled"]
    assert (coupled["cell"], coupled["mean"], coupled["optima_wins"]) == (SECOND, 0.5, 3)


def test_a_difference_within_its_interval_or_within_five_percent_is_not_above() -> None:
    noisy = {FIRST: {**RESULTS[FIRST], "optima": [2.0, 3.0, 14.0, 1.0]}}
    assert compare_with_thresholds(noisy)["above_reference"] == []
    close = {FIRST: {**RESULTS[FIRST], "optima": [1.04 * regret for regret in RESULTS[FIRST]["sliding_window_ts"]]}}
    assert compare_with_thresholds(close)["above_reference"] == []
    worse = {FIRST: {**RESULTS[FIRST], "optima": [1.06 * regret for regret in RESULTS[FIRST]["sliding_window_ts"]]}}
    assert compare_with_thresholds(worse)["above_reference"] == [FIRST]


def test_a_player_that_did_not_play_is_not_compared() -> None:
    alone = {FIRST: {"optima": [1.0, 2.0], "uniform": [3.0, 4.0]}}
    comparison = compare_with_thresholds(alone)
    assert (
        comparison["compared"],
        comparison["below_reference"],
        comparison["above_reference"],
        comparison["coupled"],
    ) == (None,) * 4
    assert "not compared" in report(alone)
    nobody = {FIRST: {"uniform": [3.0, 4.0]}}
    assert compare_with_thresholds(nobody)["worst_above_uniform"] is None
    assert cell_statistics(nobody)[0]["players"]["uniform"]["optima_wins"] is None


def test_a_single_seed_has_no_error_and_no_interval() -> None:
    single = {cell: {name: regrets[:1] for name, regrets in by.items()} for cell, by in RESULTS.items()}
    assert cell_statistics(single)[0]["players"]["optima"]["standard_error"] is None
    assert compare_with_thresholds(single)["above_reference"] == []
    assert "rotting, 200 pulls of 3 arms" in report(single)


def test_recorded_traces_are_reported_but_do_not_count() -> None:
    both = {**RESULTS, **TRACE}
    assert ranking(both) == ranking(RESULTS)
    assert compare_with_thresholds(both) == compare_with_thresholds(RESULTS)
    assert len(cell_statistics(both)) == 3
    assert "trace:x, 60 pulls of 3 arms" in report(both)
    assert "in 1 of 2 cells (50%)" in report(both)
    assert (ranking(TRACE), compare_with_thresholds(TRACE)["compared"]) == ([], None)
