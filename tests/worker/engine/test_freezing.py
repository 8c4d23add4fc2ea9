"""Only the arm moves: weights, masters and moments of every other module stay bit-identical, at every ZeRO stage."""

import json

import pytest

from tests.ranks import run_ranks

pytestmark = pytest.mark.deepspeed


@pytest.mark.parametrize(("ranks", "modes"), [(1, ("forced", "active")), (2, ("active", "forced"))])
def test_only_the_arm_moves_and_as_in_a_bare_loop(ranks: int, modes: tuple[str, str]) -> None:
    """Forced and active rounds, overlapping arms, projections, the dry step in between; fp32, bf16 and autocast; with
    weight decay, clipping, accumulation, and activation checkpointing in half of the cases."""
    stages = (0, 1, 2, 3)
    output = run_ranks("tests/worker/jobs/freezing.py", *map(str, stages), ranks=ranks, timeout=290)
    cases = [json.loads(line.split("CASE ", 1)[1]) for line in output.splitlines() if "CASE " in line]
    assert [(case["stage"], case["dtype"], case["mode"]) for case in cases] == [
        (stage, dtype, mode)
        for stage in stages
        for dtype, mode in zip(("fp32", "bf16", *([] if stage else ["autocast"])), (*modes, modes[1]), strict=False)
    ]
    for case in cases:
        assert case["faults"] == []
        assert case["moved"] == ["image", "multimodal", "text"]
        assert case["off"] < 2e-6 if case["dtype"] == "fp32" else case["off"] is None
