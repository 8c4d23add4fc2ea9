"""A module goes from one engine to another, of any stage and number of ranks, and both train it alike."""

import json
from pathlib import Path

import pytest

from tests.ranks import run_ranks

pytestmark = pytest.mark.deepspeed
FP32 = ("0:fp32", "1:fp32", "2:fp32", "3:fp32")
BF16 = ("0:bf16", "2:bf16", "3:bf16")


def cases(output: str) -> list[dict[str, object]]:
    return [json.loads(line.split("CASE ", 1)[1]) for line in output.splitlines() if "CASE " in line]


def test_a_module_moves_between_engines_of_any_kind(tmp_path: Path) -> None:
    job = "tests/worker/jobs/module_access.py"
    written = cases(run_ranks(job, str(tmp_path), "write", *FP32, *BF16, ranks=1))
    read = cases(run_ranks(job, str(tmp_path), "read", *FP32, *BF16, ranks=2))
    assert [case["case"] for case in (*written, *read)] == [*FP32, *BF16] * 2
    for case in (*written, *read):
        assert (case["comes back"], case["repeats"], case["starts"]) == (True, True, True), case
    for case in read:
        for name in FP32 if "fp32" in str(case["case"]) else BF16:
            distance = case[name.replace(":", "-")]
            assert isinstance(distance, float)
            assert distance < (1e-4 if name in FP32 else 2e-2), case
