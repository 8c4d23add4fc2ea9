"""Losses that compare every row with every other one see the rows of all ranks."""

import json

import pytest

from tests.ranks import run_ranks


@pytest.mark.deepspeed
def test_two_ranks_contrast_their_rows_as_one_rank_with_the_whole_batch() -> None:
    """Losses, gradients, the probe and steps with accumulation; with rows that have no pair, unevenly."""
    output = run_ranks("tests/worker/jobs/contrastive.py", ranks=2)
    differences = json.loads(next(line for line in output.splitlines() if line.startswith("{")))
    assert len(differences) == 3 * 4 + 2 * 3
    assert all(difference < 2e-6 for difference in differences.values()), differences
