"""A round that diverged leaves no trace, and files give back every bit, at every ZeRO stage."""

import json
from pathlib import Path

import pytest

from tests.launch import deepspeed


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_diverged_round_is_taken_back_and_a_new_engine_goes_on_in_the_middle_of_one(
    stage: int, tmp_path: Path
) -> None:
    """On two ranks, in fp32 and bf16: weights, moments and schedule end bit-equal to those of an unbroken job."""
    output = deepspeed("tests/worker/jobs/engine_state.py", str(stage), str(tmp_path), ranks=2)
    cases = [json.loads(line.split("CASE ", 1)[1]) for line in output.splitlines() if "CASE " in line]
    assert cases == [{"dtype": dtype, "faults": [[], []]} for dtype in ("fp32", "bf16")]
