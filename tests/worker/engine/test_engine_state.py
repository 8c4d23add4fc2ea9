"""A diverged round leaves no trace, and a checkpoint restores every bit, at every ZeRO stage."""

import itertools
import json
from pathlib import Path

import pytest

from tests.ranks import run_ranks

pytestmark = pytest.mark.deepspeed


@pytest.mark.timeout(600)
def test_a_diverged_round_is_rolled_back_and_a_new_engine_continues_in_the_middle_of_one(tmp_path: Path) -> None:
    """Compare bit for bit with an uninterrupted job, on two ranks: weights, masters, moments and schedule."""
    output = run_ranks("tests/worker/jobs/engine_state.py", str(tmp_path), "0", "1", "2", "3", ranks=2, timeout=560)
    cases = [json.loads(line.split("CASE ", 1)[1]) for line in output.splitlines() if "CASE " in line]
    assert cases == [
        {"stage": stage, "dtype": dtype, "faults": [[], []]}
        for stage, dtype in itertools.product((0, 1, 2, 3), ("fp32", "bf16"))
    ]
