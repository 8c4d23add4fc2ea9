"""`python -m benchmarks.regret.policy_cost`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bandit_server.bandit.policy.published import POLICIES
from tests.benchmarks.command import benchmark


def test_a_tiny_run_times_every_policy_and_the_peers(tmp_path: Path) -> None:
    output = tmp_path / "c.json"
    command = ("--after", "10", "60", "--pulls", "40", "--arms", "3", "--json", str(output))
    printed = benchmark("regret.policy_cost", *command)
    assert "Median µs of select + report at 3 arms" in printed
    assert "optima: " in printed
    result = json.loads(output.read_text(encoding="utf-8"))
    assert {"command", "versions", "machine", "cpus", "arms", "timed_pulls", "median_microseconds"} == set(result)
    assert set(result["median_microseconds"]) == {*POLICIES, "river_ucb", "mabwiser_ucb1"}
    for costs in result["median_microseconds"].values():
        assert set(costs) == {"10", "60"}
        assert all(cost > 0 for cost in costs.values())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--policies", "best"), "argument --policies: invalid choice: 'best'"),
        (("--after", "10"), "argument --after: expected 2 arguments"),
        (("--pulls", "0"), "argument --pulls: '0' is not a whole number from 1"),
    ],
)
def test_bad_input_is_one_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    assert sentence in benchmark("regret.policy_cost", *arguments, status=2)
