"""Only the arm moves: weights and moments of every other module stay bit-identical, at every ZeRO stage."""

import json

import pytest

from tests.launch import deepspeed


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_only_the_arm_moves(stage: int) -> None:
    """Forced and active rounds in fp32 and bf16 on two ranks, with weight decay, clipping and accumulation."""
    output = deepspeed("tests/worker/jobs/freezing.py", str(stage), "fp32", "bf16", ranks=2)
    cases = [json.loads(line.split("CASE ", 1)[1]) for line in output.splitlines() if "CASE " in line]
    assert [(case["dtype"], case["mode"]) for case in cases] == [
        (dtype, mode) for dtype in ("fp32", "bf16") for mode in ("forced", "active")
    ]
    for case in cases:
        assert case["faults"] == []
        assert case["moved"] == ["image", "multimodal", "text"]
