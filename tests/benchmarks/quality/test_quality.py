"""The pure parts of the study: costs, intervals, records."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality.cost import Ledger
from benchmarks.quality.interval import paired
from benchmarks.quality.local_bandit import Shares
from benchmarks.quality.records import Records


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
