"""Checkpoints are written atomically, the last few are kept, and a damaged one is never read."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from protos.optima.v1 import bandit_pb2 as pb
from tests.worker.jobs.engine_state import Job
from worker.client.journal import Pull
from worker.engine.process_group import ProcessGroup
from worker.errors import CheckpointError
from worker.evaluation.probe import Evaluation
from worker.recipe.sections import CheckpointRecipe
from worker.training import rng
from worker.training.checkpoint import Checkpoints, newest
from worker.training.loop_state import LoopState
from worker.training.rollback import Rollback

PULL = Pull("image", 7, pb.CHOSEN_BY_POLICY)


@pytest.fixture(scope="module")
def job(process_group: ProcessGroup) -> Job:
    """A real engine on the only rank."""
    return Job(process_group, stage=0, dtype="fp32", seed=2)


@pytest.fixture
def checkpoints(job: Job, tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", CheckpointRecipe(keep=3), job.process_group, "r", "w")


def at(round: int, step: int = 0) -> LoopState:
    return LoopState(round=round, step=step, position=10 * round + step, pull=PULL if step else None)


def names(checkpoints: Checkpoints) -> list[str]:
    return sorted(path.name for path in checkpoints.directory.iterdir())


def test_the_newest_few_are_kept(job: Job, checkpoints: Checkpoints) -> None:
    for state in (at(0, 3), at(1), at(1, 2), at(10), at(9, 3)):
        checkpoints.save(job.engine, state)
    assert names(checkpoints) == ["round-000001-step-0002", "round-000009-step-0003", "round-000010-step-0000"]
    latest = newest(checkpoints.directory)
    assert latest is not None
    assert (latest[0], latest[1].run, latest[1].worker, latest[1].ranks) == ("round-000010-step-0000", "r", "w", 1)


def test_everything_is_restored(job: Job, checkpoints: Checkpoints) -> None:
    start = Rollback(job.engine, ("image",))
    evaluation = Evaluation(1.5, {"layers/image": 0.25}, {"accuracy": 0.5})
    state = LoopState(
        round=4,
        step=2,
        pull=PULL,
        position=18,
        terms={"layers/image": 0.1},
        seconds=1.25,
        diverged=1,
        elapsed=9.5,
        teacher_metrics={"accuracy": 0.9},
        start=evaluation,
        rows=[{"loss": torch.tensor(float("nan"))}, {"loss": torch.tensor(0.3)}],
        round_start=start.state(),
    )
    checkpoints.save(job.engine, state)
    drawn = [random.random(), float(np.random.random()), float(torch.rand(()))]
    weights = {name: tensor.clone() for name, tensor in job.engine.state_dict().items()}
    schedule = job.engine.schedule.state()
    job.step(1, 0)

    restored = checkpoints.load(job.engine, "round-000004-step-0002", ranks=1)
    assert restored.common() == state.common()
    assert repr(restored.rows) == repr(state.rows)
    assert restored.pull == PULL
    assert restored.start == evaluation
    rng.restore(restored.random)
    assert drawn == [random.random(), float(np.random.random()), float(torch.rand(()))]
    assert all(torch.equal(tensor, weights[name]) for name, tensor in job.engine.state_dict().items())
    assert job.engine.schedule.state() == schedule
    saved, loaded = start.state(), restored.round_start
    assert loaded is not None
    assert all(torch.equal(a, b) for a, b in zip(saved["tensors"], loaded["tensors"], strict=True))


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda path: os.truncate(path / "engine" / "mp_rank_00_model_states.pt", 99), "has 99 bytes instead of"),
        (lambda path: flip(path / "rank-00000.pt"), "rank-00000.pt is damaged"),
        (lambda path: (path / "rank-00000.pt").unlink(), "rank-00000.pt is missing"),
        (lambda path: (path / "complete.json").unlink(), "complete.json is missing"),
        (lambda path: os.truncate(path / "complete.json", 40), "it cannot be read"),
    ],
    ids=["truncated", "damaged", "file missing", "mark missing", "mark truncated"],
)
def test_the_previous_one_is_used_if_the_newest_is_incomplete(
    job: Job, checkpoints: Checkpoints, caplog: pytest.LogCaptureFixture, harm: object, reason: str
) -> None:
    assert callable(harm)
    for state in (at(1), at(2), at(3)):
        checkpoints.save(job.engine, state)
    harm(checkpoints.directory / "round-000003-step-0000")
    latest = newest(checkpoints.directory)
    assert latest is not None
    assert latest[0] == "round-000002-step-0000"
    assert "round-000003-step-0000 is not used: " in caplog.text
    assert reason in caplog.text
    # It does not displace the complete ones.
    checkpoints.save(job.engine, at(2, 1))
    assert names(checkpoints) == ["round-000001-step-0000", "round-000002-step-0000", "round-000002-step-0001"]


def test_without_a_complete_one_there_is_none(job: Job, checkpoints: Checkpoints) -> None:
    assert newest(checkpoints.directory) is None
    checkpoints.save(job.engine, at(1))
    (checkpoints.directory / "round-000001-step-0000" / "complete.json").unlink()
    assert newest(checkpoints.directory) is None


def test_a_disk_that_fills_up_leaves_the_previous_one_intact(job: Job, checkpoints: Checkpoints) -> None:
    checkpoints.save(job.engine, at(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(CheckpointError, match=r"cannot write a checkpoint to .*; the previous one is intact"):
            checkpoints.save(job.engine, at(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    latest = newest(checkpoints.directory)
    assert latest is not None
    assert latest[0] == "round-000001-step-0000"
    # The unfinished draft does not disturb the next one.
    assert "draft" in names(checkpoints)
    checkpoints.save(job.engine, at(2))
    assert names(checkpoints) == ["round-000001-step-0000", "round-000002-step-0000"]


def test_another_number_of_ranks_is_refused(job: Job, checkpoints: Checkpoints) -> None:
    checkpoints.save(job.engine, at(1))
    with pytest.raises(
        CheckpointError, match=r"is of 2 rank\(s\), and this job has 1: launch it with --num_accelerators 2"
    ):
        checkpoints.load(job.engine, "round-000001-step-0000", ranks=2)


class Code:
    """An object that runs a command when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("file", ["engine/mp_rank_00_model_states.pt", "rank-00000.pt"])
def test_code_in_a_checkpoint_is_not_run(job: Job, checkpoints: Checkpoints, tmp_path: Path, file: str) -> None:
    checkpoints.save(job.engine, at(1))
    path = checkpoints.directory / "round-000001-step-0000"
    # An attacker who can write the file can also write its mark.
    (path / file).write_bytes(pickle.dumps({"module": Code(tmp_path / "harm")}, protocol=2))
    mark = json.loads((path / "complete.json").read_text())
    mark["files"][file] = [(path / file).stat().st_size, hashlib.sha256((path / file).read_bytes()).hexdigest()]
    (path / "complete.json").write_text(json.dumps(mark))
    assert newest(checkpoints.directory) is not None
    with pytest.raises(CheckpointError, match="holds more than tensors and plain values"):
        checkpoints.load(job.engine, "round-000001-step-0000", ranks=1)
    assert not (tmp_path / "harm").exists()


def test_regular_ones_are_due_after_the_recipes_seconds(job: Job, tmp_path: Path) -> None:
    always, later = (
        Checkpoints(tmp_path, CheckpointRecipe(every_seconds=seconds), job.process_group, "r", "w")
        for seconds in (0, 1000)
    )
    assert always.due
    assert not later.due
    always.save(job.engine, at(1))
    assert always.due


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
