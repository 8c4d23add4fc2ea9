"""A teacher sharded over the ranks."""

import json

import pytest

from tests.ranks import run_ranks

pytestmark = pytest.mark.deepspeed


@pytest.mark.timeout(600)
def test_two_ranks_hold_half_of_a_teacher_each_whose_outputs_are_those_of_a_whole_one() -> None:
    """Bit for bit, whichever modules are run one after the other; also beside a student under ZeRO 3."""
    output = run_ranks("tests/worker/jobs/teacher_placement.py", ranks=2, timeout=560)
    cases = [json.loads(line.split("CASE ", 1)[1]) for line in output.splitlines() if "CASE " in line]
    assert cases == [
        [
            {
                "placement": placement,
                "dtype": dtype,
                "differ by": 0.0,
                "finite": True,
                "held": 0.5,
                "output dtypes": ["torch.float32"],
                "in the student": [],
                "trained": ["image", "multimodal", "text"],
            }
        ]
        * 2
        for placement, dtype in (("zero3", "float32"), ("cpu", "bfloat16"))
    ]
