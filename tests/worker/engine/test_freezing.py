"""Only the arm is trained: all other weights, masters and moments stay bit-identical, at every ZeRO stage."""

import json

import pytest

from tests.ranks import run_ranks

pytestmark = pytest.mark.deepspeed


@pytest.mark.parametrize(("ranks", "modes"), [(1, ("forced", "active")), (2, ("active", "forced"))])
def test_only_the_arm_moves_and_as_in_a_bare_loop(ranks: int, modes: tuple[str, str]) -> None:
    """Test forced and active rounds in fp32, bf16 and autocast, with overlapping arms, projections and a dry run.

    Weight decay, clipping and accumulation are on, and in half of the cases activation checkpointing.
    """
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
