"""Trackers show the rounds of metrics.jsonl, each once; one that fails or hangs does not stop the job."""

from __future__ import annotations

import csv
import logging
import threading
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from worker.engine.process_group import ProcessGroup
from worker.evaluation.probe import Evaluation
from worker.recipe.sections import TrackingRecipe
from worker.training.metrics import Metrics, RoundRecord
from worker.training.tracking import BEHIND, Tracker, events, start_trackers

ROUND = RoundRecord(
    round=0,
    arm="image",
    chosen_by="policy",
    before=2.0,
    after=1.5,
    reward=0.25,
    train_loss=3.0,
    train_terms={"layers/image": 0.5},
    probe_terms={"layers/image": 0.4, "logits/kl": 0.1},
    evaluation=None,
    steps=10,
    step=10,
    seconds=1.0,
    probe_seconds=0.1,
    evaluate_seconds=0.0,
)
EVALUATED = replace(
    ROUND,
    round=1,
    step=20,
    arm="text",
    reward=None,
    after=None,
    evaluation=Evaluation(7.0, {"task/caption": 2.5}, {"accuracy": 0.75}),
)


def test_a_round_is_a_point_of_every_term_and_of_its_arms_reward() -> None:
    assert {name: value for name, value, _ in events(vars(ROUND))} == {
        "round": 0.0,
        "reward": 0.25,
        "reward/image": 0.25,
        "bandit_loss/before": 2.0,
        "bandit_loss/after": 1.5,
        "train/loss": 3.0,
        "train/layers/image": 0.5,
        "probe/layers/image": 0.4,
        "probe/logits/kl": 0.1,
        "seconds/train": 1.0,
        "seconds/probe": 0.1,
    }
    assert {step for _, _, step in events(vars(ROUND))} == {10}


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("WANDB_DIR", "WANDB_NAME", "WANDB_SILENT", "WANDB_MODE"):
        # So that variables set by a tracker are removed after the test.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return tmp_path


def test_every_tracker_has_every_round_once_also_after_a_resume(output: Path, process_group: ProcessGroup) -> None:
    recipe = TrackingRecipe.model_validate({"tensorboard": True, "csv": True, "wandb": {"project": "p"}})
    for first, rounds, wanted in ((0, (ROUND, EVALUATED), recipe), (1, (EVALUATED,), TrackingRecipe(csv=True))):
        # The second process plays the last round again.
        metrics = Metrics(output, first)
        trackers = start_trackers(wanted, output, "run-7")
        for one in rounds:
            metrics.add(one)
            for tracker in trackers:
                tracker.add(one)
        for tracker in trackers:
            # On a busy machine the import of wandb alone takes half a minute.
            tracker.close(200)
            assert not tracker.is_alive()
        metrics.close()
    files = {
        path.stem: list(csv.reader(path.read_text().splitlines()))
        for path in (output / "tracking" / "csv").glob("*.csv")
    }
    assert files["probe_logits_kl"] == [["step", "kl"], ["10", "0.1"], ["20", "0.1"]]
    assert files["reward"] == [["step", "reward"], ["10", "0.25"]]
    assert files["metrics_accuracy"] == [["step", "accuracy"], ["20", "0.75"]]

    shown = EventAccumulator(str(output / "tracking" / "tensorboard"))
    shown.Reload()
    curves: dict[str, list[tuple[int, Any]]] = defaultdict(list)
    for one in (ROUND, EVALUATED):
        for name, value, step in events({**vars(one), "evaluation": one.evaluation and vars(one.evaluation)}):
            curves[name].append((step, pytest.approx(value)))
    assert {n: [(e.step, e.value) for e in shown.Scalars(n)] for n in shown.Tags()["scalars"]} == curves

    (offline,) = (output / "tracking" / "wandb").glob("offline-run-*/*.wandb")
    content = offline.read_bytes()
    assert all(word in content for word in (b"run-7", b"probe/logits/kl", b"reward/image", b"accuracy"))


class Broken:
    """A monitor whose disk fills up at the second round."""

    written = 0

    def write_events(self, _: Any) -> None:
        self.written += 1
        if self.written == 2:
            raise OSError(28, "No space left on device")


def test_a_tracker_that_fails_gets_no_more_rounds_and_a_warning_says_so(caplog: pytest.LogCaptureFixture) -> None:
    def absent() -> Any:
        raise ImportError("No module named 'tensorboard'")

    for create, message in ((Broken, "No space left on device"), (absent, "No module named 'tensorboard'")):
        tracker = Tracker("tensorboard", create)
        tracker.start()
        for _ in range(2000):
            tracker.add(ROUND)
        tracker.close()
        assert not tracker.is_alive()
        assert "tensorboard failed and gets no more rounds: " in caplog.text
        assert f"{message}. Training continues, and metrics.jsonl has every round" in caplog.text


def test_training_does_not_wait_for_a_tracker_that_hangs(caplog: pytest.LogCaptureFixture) -> None:
    released = threading.Event()

    class Hanging:
        def write_events(self, _: Any) -> None:
            released.wait(60)

    tracker = Tracker("wandb", Hanging)
    tracker.start()
    with caplog.at_level(logging.WARNING):
        for _ in range(BEHIND + 5):
            tracker.add(ROUND)
        tracker.close(0.05)
    assert [record.getMessage() for record in caplog.records] == [
        "wandb is 1000 rounds behind, and some are dropped. metrics.jsonl has every round",
        "wandb takes too long, and may lack the last rounds; metrics.jsonl has them",
    ]
    released.set()
    tracker.close(200)
    assert not tracker.is_alive()
