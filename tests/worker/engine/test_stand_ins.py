"""A model that declares nothing is trained arm by arm, at every ZeRO stage, and nothing else of it moves."""

import json

import pytest

from tests.ranks import run_ranks

pytestmark = pytest.mark.deepspeed


@pytest.mark.parametrize(
    ("ranks", "cases"),
    [
        (1, ("0:autocast", "1:fp32:recompute")),
        (2, ("0:bf16", "2:fp32", "3:fp32:recompute")),
    ],
)
def test_only_the_arm_moves_while_other_modules_stand_in(ranks: int, cases: tuple[str, ...]) -> None:
    """Test a narrower student, accumulation, clipping, decay, a dry run, and a teacher that is sharded at stage 3.

    In the cases with ``recompute``, activation checkpointing runs regions again that hold units of several modules.
    """
    output = run_ranks("tests/worker/jobs/stand_ins.py", *cases, ranks=ranks, timeout=290)
    found = [json.loads(line.split("CASE ", 1)[1]) for line in output.splitlines() if "CASE " in line]
    assert [case["name"] for case in found] == list(cases)
    for case in found:
        assert case["faults"] == []
        assert case["off"] < 2e-6 if "fp32" in case["name"] else case["off"] is None
