"""Gradients that are averaged over the ranks during the backward pass."""

import json

import pytest

from tests.ranks import run_ranks


@pytest.mark.deepspeed
def test_gradients_are_the_mean_of_what_all_ranks_have_accumulated_whoever_has_none() -> None:
    output = run_ranks("tests/worker/jobs/gradient_averaging.py", ranks=2)
    differences = json.loads(next(line for line in output.splitlines() if line.startswith("{")))
    refused = differences.pop("refused")
    assert len(differences) == 6
    assert all(difference < 1e-9 for difference in differences.values()), differences
    assert "in two parts within one backward pass" in refused
