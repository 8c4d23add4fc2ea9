"""Rounds whose loss is NaN are rolled back and reported as diverged; after some in a row the job stops."""

from __future__ import annotations

import itertools
from pathlib import Path

import grpc
import pytest
import yaml

from protos.optima.v1 import bandit_pb2 as pb
from protos.optima.v1.bandit_pb2_grpc import BanditStub
from tests.integration.test_resume import RECIPE
from tests.job import metrics
from tests.ranks import run_ranks
from tests.server_process import reports_of

pytestmark = pytest.mark.deepspeed

STEPS, ROTTEN = 2, [1, 4, 5, 6]


def test_a_diverged_round_is_rolled_back_and_the_third_in_a_row_is_the_last(tmp_path: Path, address: str) -> None:
    ranks, stage = 2, 2
    recipe, run = tmp_path / "recipe.yaml", "rotten"
    batch_size = RECIPE["data"]["batch_size"]
    changes = {
        "data": {"name": "tests.integration.rotten:rotten", "batch_size": batch_size,
                 "options": {"rows": STEPS * ranks * batch_size, "rounds": ROTTEN}},
        # Both arms read images, the second one as the teacher's tokens.
        "arms": {"eyes": ["image"], "reader": ["multimodal"]},
        "policy": {"name": "round_robin"},
        "tail": 0,
        "rounds": 12,
        "steps_per_round": STEPS,
        "deepspeed": {"zero_optimization": {"stage": stage}},
        "checkpoint": {"every_seconds": 300},
    }  # fmt: skip
    recipe.write_text(yaml.safe_dump(RECIPE | changes), encoding="utf-8")
    output = run_ranks(
        "worker/train.py", "--bandit-addr", address, "--recipe", str(recipe), "--run", run,
        "--output-dir", str(tmp_path / "out"), ranks=ranks, status=1,
    )  # fmt: skip
    last = ROTTEN[-1]
    assert f"error: round {last}: the loss is not finite after training arm 'eyes', in 3 rounds in a row" in output
    assert "Traceback" not in output
    rounds = metrics(tmp_path / "out")
    assert [record["round"] for record in rounds] == list(range(last + 1))
    assert [record["round"] for record in rounds if record["after"] is None] == ROTTEN
    for one, following in itertools.pairwise(rounds):
        diverged = one["after"] is None
        assert following["before"] == one["before" if diverged else "after"]
        assert one["step"] == (rounds[one["round"] - 1]["step"] if diverged else one["step"])
    assert [record["step"] for record in rounds] == [2, 2, 4, 6, 6, 6, 6]
    reports = reports_of(address, run)
    assert [r.pull.round for r in reports if r.measurement.outcome == pb.OUTCOME_DIVERGED] == ROTTEN
    assert [r.pull.round for r in reports] == list(range(last + 1))
    with grpc.insecure_channel(address) as channel:
        run_now = BanditStub(channel).GetRun(pb.GetRunRequest(run=run)).run
    assert run_now.pulls == len(reports), "an arm is chosen for a round that is never played"
