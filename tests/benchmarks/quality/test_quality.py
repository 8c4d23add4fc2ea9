"""The parts of the study that train nothing: costs, budget, intervals, records."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality.grid import Cell
from benchmarks.quality.local_bandit import Shares
from benchmarks.quality.records import Records
from benchmarks.quality.report import paired
from benchmarks.quality.run import BudgetChooser, Ledger
from worker.engine.optimizer import OptimizerRecipe, Schedule
from worker.training.metrics import RoundRecord


def test_cost_is_counts_times_calibrated_seconds() -> None:
    ledger = Ledger({"step/image": 0.5, "probe/image": 0.25})
    ledger.add("step/image", 10)
    ledger.add("probe/image")
    assert ledger.spent == 5.25
    with pytest.raises(KeyError, match="was not measured"):
        ledger.add("step/text")


def test_fixed_shares_are_kept_over_any_stretch() -> None:
    chooser = Shares({"image": 6, "text": 3, "multimodal": 1, "other": 0})
    played = [chooser.select(round).arm for round in range(40)]
    assert Counter(played) == {"image": 24, "text": 12, "multimodal": 4}
    assert all(Counter(played[at : at + 10])["image"] in {5, 6, 7} for at in range(30))


def record(round: int, arm: str, after: float = 0.5) -> RoundRecord:
    return RoundRecord(
        round=round,
        arm=arm,
        chosen_by="policy",
        before=1.0,
        after=after,
        reward=None,
        train_loss=1.0,
        train_terms={},
        probe_terms={},
        evaluation=None,
        steps=5,
        step=5 * round + 5,
        seconds=1.0,
        probe_seconds=0.0,
        evaluate_seconds=0.0,
    )


def test_a_run_ends_with_its_budget_after_a_joint_tail_and_the_rate_decays_over_it() -> None:
    cell = Cell("questions", "uneven", "little", "shares 6:2:2", 300, 100.0, 1e-3, 1.0)
    arms = ("image", "text", "multimodal")
    ledger = Ledger({f"step/{arm}": 1.0 for arm in arms} | {"step/joint": 2.0})
    schedule = Schedule(OptimizerRecipe())
    chooser = BudgetChooser(cell, ledger, Shares(dict(zip(arms, (6, 2, 2), strict=True))), schedule)
    played: list[str] = []
    ends: list[int] = []
    while (pull := chooser.select(len(played))) is not None:
        ends.append(schedule.total_steps)
        assert chooser.report(pull, record(len(played), pull.arm), last=False) is None
        schedule.step += 5
        played.append(pull.arm)
    assert Counter(played) == {"image": 9, "text": 3, "multimodal": 2, "joint": 3}
    assert played[-3:] == ["joint"] * 3
    assert ledger.spent == 100.0
    assert ends == [50, *[100] * 14, 94, 89], "the steps that the budget buys at the cost of those so far"


def test_an_interval_holds_a_difference_that_is_there_and_not_one_that_is_not() -> None:
    rng = np.random.default_rng(1)
    theirs = rng.random((5, 200))
    better = paired(theirs + 0.1, theirs, np.ones(200))
    assert better.low == pytest.approx(0.1)
    assert better.high == pytest.approx(0.1)
    same = paired(rng.random((5, 200)), rng.random((5, 200)), np.ones(200))
    assert same.low < 0 < same.high


def test_methods_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="do not pair"):
        paired(np.ones((2, 3)), np.ones((3, 3)), np.ones(3))


def test_a_run_is_done_once_and_an_interrupted_one_again(tmp_path: Path) -> None:
    here, there = Records(tmp_path / "q.json"), Records(tmp_path / "q.json")
    with here.claim("runs", "a/b #1") as mine, there.claim("runs", "a/b #1") as theirs:
        assert (mine, theirs) == (True, False)
    with there.claim("runs", "a/b #1") as mine:
        assert mine
        there.write("runs", "a/b #1", {"loss": 1.0})
    with here.claim("runs", "a/b #1") as mine:
        assert not mine
    here.write("calibrations", "even", {"step/joint": 0.1})
    assert there.all("runs") == {"a/b #1": {"loss": 1.0}}
    assert there.read("calibrations", "even") == {"step/joint": 0.1}
    assert there.read("runs", "a/b #2") is None


def test_a_file_of_something_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "q.json").write_text("[]")
    with pytest.raises(ValueError, match="no records of the study"):
        Records(tmp_path / "q.json").write("runs", "a", {})
