"""Ranks that average gradients while the backward pass goes on."""

import json

import pytest

from tests.ranks import run_ranks


@pytest.mark.deepspeed
def test_gradients_are_the_mean_of_what_all_ranks_have_accumulated_whoever_has_none() -> None:
    said = run_ranks("tests/worker/jobs/gradient_averaging.py", ranks=2)
    told = json.loads(next(line for line in said.splitlines() if line.startswith("{")))
    refused = told.pop("refused")
    assert len(told) == 6
    assert all(difference < 1e-9 for difference in told.values()), told
    assert "in two parts within one backward pass" in refused
