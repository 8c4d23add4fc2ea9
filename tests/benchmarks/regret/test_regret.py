"""`python -m benchmarks.regret`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks.command import benchmark

PLAYERS = {"optima", "sliding_window_ts", "round_robin", "river_ucb", "mabwiser_ucb1", "uniform"}


def test_a_tiny_run_prints_the_table_and_writes_every_number(tmp_path: Path) -> None:
    output, picture = tmp_path / "r.json", tmp_path / "r.png"
    command = ["--policies", *sorted(PLAYERS - {"uniform"}), "--scenarios", "rotting", "coupled", "--horizons", "30"]
    command += ["--arms", "3", "--seeds", "3", "--first-seed", "70", "--json", str(output), "--plot", str(picture)]
    printed = benchmark("regret", *command)
    assert "rotting, 30 pulls of 3 arms" in printed
    assert "Ranking: geometric mean over cells" in printed
    assert "optima's mean is below sliding_window_ts's in" in printed
    assert picture.read_bytes().startswith(b"\x89PNG")
    result = json.loads(output.read_text(encoding="utf-8"))
    assert {"command", "versions", "machine", "cpus", "seconds", "seeds", "cells", "ranking", "bar"} <= set(result)
    assert result["seeds"] == [70, 71, 72]
    assert [cell["scenario"] for cell in result["cells"]] == ["rotting", "coupled"]
    for cell in result["cells"]:
        assert set(cell["players"]) == PLAYERS
        for player in cell["players"].values():
            assert set(player) == {"mean", "standard_error", "worst", "optima_wins", "regrets"}
            assert player["worst"] == max(player["regrets"])
            assert len(player["regrets"]) == 3
    assert {place["player"] for place in result["ranking"]} == PLAYERS
    assert [place["score"] for place in result["ranking"]] == sorted(place["score"] for place in result["ranking"])
    assert result["bar"]["compared"] == 2
    assert set(result["microseconds_per_pull"]) == PLAYERS


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--policies", "best"), "argument --policies: invalid choice: 'best'"),
        (("--scenarios", "mine"), "argument --scenarios: invalid choice: 'mine'"),
        (("--horizons", "0"), "argument --horizons: '0' is not a whole number from 1"),
        (("--arms", "1"), "argument --arms: '1' is not a whole number from 2"),
        (("--seeds", "-3"), "argument --seeds: '-3' is not a whole number from 1"),
    ],
)
def test_bad_input_is_one_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    assert sentence in benchmark("regret", *arguments, status=2)
