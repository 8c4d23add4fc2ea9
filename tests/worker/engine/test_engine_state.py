"""A round that diverged leaves no trace, and files give back every bit, at every ZeRO stage."""

import itertools
import json
from pathlib import Path

import pytest

from tests.ranks import run_ranks

pytestmark = pytest.mark.deepspeed


@pytest.mark.timeout(600)
def test_a_diverged_round_is_taken_back_and_a_new_engine_goes_on_in_the_middle_of_one(tmp_path: Path) -> None:
    """On two ranks: weights, masters, moments and schedule end bit-equal to those of a job that never was broken."""
    output = run_ranks("tests/worker/jobs/engine_state.py", str(tmp_path), "0", "1", "2", "3", ranks=2, timeout=560)
    cases = [json.loads(line.split("CASE ", 1)[1]) for line in output.splitlines() if "CASE " in line]
    assert cases == [
        {"stage": stage, "dtype": dtype, "faults": [[], []]}
        for stage, dtype in itertools.product((0, 1, 2, 3), ("fp32", "bf16"))
    ]
