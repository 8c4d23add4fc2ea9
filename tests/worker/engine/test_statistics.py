"""Running statistics move with their arm only, are the same on all ranks, and outlive a rollback and a resume.

Frozen parameters never move.
"""

import json
from pathlib import Path

import pytest

from tests.ranks import run_ranks

EXPECTED = {
    "rehearsed": [],
    "joint": ["left.1", "right.1"],
    "left": ["left.1"],
    "right": ["right.1"],
    "head": [],
    "left+right": ["left.1", "right.1"],
    "alike": True,
    "rolled back": [],
    "loaded": [],
    "resumed": [],
    "exported": [],
    "as they were": True,
}
"""The layers whose statistics moved. One is frozen, one is in no module."""
STAYED = ["left.0.bias", "left.3.bias", "left.3.weight", "right.2.bias", "right.2.weight", "stem.bias", "stem.weight"]


@pytest.mark.deepspeed
@pytest.mark.parametrize("ranks", [1, 2])
def test_statistics_of_batch_norm_move_with_their_arm_only_and_what_is_frozen_never(tmp_path: Path, ranks: int) -> None:
    output = run_ranks("tests/worker/jobs/running_statistics.py", str(tmp_path), "0", "1", "2", "3", ranks=ranks)
    cases = [json.loads(line.split("CASE ", 1)[1]) for line in output.splitlines() if "CASE " in line]
    assert [(case["stage"], case["dtype"]) for case in cases] == [
        (stage, dtype) for stage in range(4) for dtype in ("fp32", "bf16")
    ]
    for case in cases:
        stayed = [rank.pop("weights that stayed") for rank in case["ranks"]]
        # Only rank 0 has the weights.
        assert stayed == [STAYED, *[[]] * (ranks - 1)]
        assert case["ranks"] == [EXPECTED] * ranks, case
