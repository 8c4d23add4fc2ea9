"""`python -m benchmarks.step_time`: its conclusions from made-up figures, and its models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.step_time import models as step_models
from benchmarks.step_time.thresholds import ratio, report, shares, thresholds
from tests.benchmarks.command import benchmark
from worker.recipe.recipe import read_recipe

ARMS = {"image": 0.25, "text": 0.25, "multimodal": 0.6}
RUN = {
    "rounds": 3, "steps_per_round": 10, "start_seconds": 19.0, "load_seconds": 5.0, "seconds": 10.0,
    "train_seconds": 9.0, "probe_seconds": 0.4, "evaluate_seconds": 0.5,
}  # fmt: skip


def variant(name: str, arm: str, seconds: float, flops: float = 1.0, peak: int = 100) -> dict[str, Any]:
    return {"name": name, "arm": arm, "flops": flops * 1e9, "peak_bytes": peak, "seconds": [seconds, 3 * seconds]}


def results(**faults: float) -> dict[str, Any]:
    """Return results that meet every threshold, except for variants that take so many times as long."""
    joint = [variant(name, "joint", faults.get(name, 1.0)) for name in ("worker", "bare", "pytorch", "torchdistill")]
    arms = [variant("worker", arm, share * faults.get(arm, 1.0), share) for arm, share in ARMS.items()]
    arms += [variant("bare", arm, share, share) for arm, share in ARMS.items()]
    job = {
        "size": "small", "ranks": 1, "device": "cpu", "steps_in_a_turn": 2, "clock": "wall", "copied_bytes": 10**6,
        "teacher_parameters": 10**6, "student_parameters": 10**6, "variants": joint + arms,
    }  # fmt: skip
    alone = {"size": "50m", "ranks": 2, "resident_bytes": {"worker": 100 * faults.get("resident", 1.0), "bare": 100}}
    return {"jobs": [job], "alone": [alone], "run": {**RUN, "seconds": RUN["seconds"] * faults.get("run", 1.0)}}


def missed(results: dict[str, Any]) -> list[str]:
    return [threshold.what for threshold in thresholds(results) if not threshold.met]


def test_turns_are_compared_with_the_turns_beside_them() -> None:
    assert ratio([1.0, 20.0, 1.0], [1.0, 10.0, 2.0]) == 1.0
    with pytest.raises(ValueError, match="argument 2"):
        ratio([1.0], [1.0, 2.0])


def test_a_bar_that_is_missed_is_named() -> None:
    assert missed(results()) == []
    assert missed(results(worker=1.04, torchdistill=1.04)) == []
    assert missed(results(worker=1.06, torchdistill=1.06)) == ["small, 1 rank: joint × the loop by hand"]
    assert missed(results(torchdistill=0.99)) == ["small, 1 rank: joint × torchdistill"]
    assert missed(results(text=1.12)) == ["small, 1 rank: arm text × its loop by hand"]
    assert missed(results(worker=0.7)) == [
        f"small, 1 rank: arm {arm}, share of joint's time × its share of operations" for arm in ARMS
    ]
    assert missed(results(resident=1.06)) == ["50m, 2 ranks: the process's peak memory × the loop by hand's"]
    assert missed(results(run=1.02)) == ["a run: share of bandit and probe"]


def test_all_time_that_is_neither_training_nor_measuring_is_the_bandits() -> None:
    assert shares(RUN) == pytest.approx(
        {"training": 0.9, "bandit": 0.01, "probe": 0.04, "bandit and probe": 0.05, "evaluation": 0.05}
    )


def test_the_report_shows_every_variant_and_every_threshold() -> None:
    printed = report(results(worker=1.06, torchdistill=1.06))
    for label in ("(a) by hand, DeepSpeed", "(a′)", "(b) the worker", "(b′) image by hand", "(c) torchdistill"):
        assert label in printed
    assert "MISSED    1.060 of at most 1.05: small, 1 rank: joint × the loop by hand" in printed
    assert "training 90.0%, bandit 1.0%, probe 4.0%" in printed


@pytest.mark.parametrize("size", step_models.SIZES)
def test_the_models_are_recipes_that_can_be_read(size: str, tmp_path: Path) -> None:
    read = read_recipe(step_models.write(size, tmp_path, rounds=7), {})
    assert read.rounds == 7
    model = read.teacher.model.partition(":")[2]
    # The largest is one that open_clip knows by its name.
    assert (model == "coca_ViT-L-14") == (size == "l14")
    assert size == "l14" or (read.directory / model).is_file()


def test_bad_input_is_one_sentence() -> None:
    assert "unrecognized arguments: --slow" in benchmark("step_time", "--slow", status=2)
