"""metrics.jsonl has every round once, even if a writer was killed."""

from __future__ import annotations

import json
import math
from pathlib import Path

from worker.training.metrics import Metrics, RoundRecord


def record_of(round: int, arm: str, after: float | None = 0.5) -> RoundRecord:
    return RoundRecord(
        round=round,
        arm=arm,
        chosen_by="policy",
        before=1.0,
        after=after,
        reward=None,
        train_loss=math.nan if after is None else 0.7,
        train_terms={},
        probe_terms={},
        evaluation=None,
        steps=2,
        step=2 * round,
        seconds=1.0,
        probe_seconds=0.25,
        evaluate_seconds=0.0,
    )


def test_rounds_that_are_played_again_are_written_once(tmp_path: Path) -> None:
    first = Metrics(tmp_path)
    for round, arm in enumerate(("image", "text", "image", "text")):
        first.add(record_of(round, arm, None if round == 1 else 0.5))
    first.close()
    path = tmp_path / "metrics.jsonl"
    # Killed in the middle of a line.
    path.write_bytes(path.read_bytes() + b'{"round": 4, "ar')

    second = Metrics(tmp_path, first=3)
    second.add(record_of(3, "text"))
    second.add(record_of(4, "text"))
    second.write_summary({"run": "r"})
    second.close()
    assert [json.loads(line)["round"] for line in path.read_text().splitlines()] == [0, 1, 2, 3, 4]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary.pop("pulls") == {"image": 2, "text": 3}
    assert summary == {
        "run": "r",
        "diverged_rounds": 1,
        "train_seconds": 5.0,
        "probe_seconds": 1.25,
        "evaluate_seconds": 0.0,
        "probe_share": 0.25,
    }


def test_a_torn_line_of_the_next_round_is_removed(tmp_path: Path) -> None:
    first = Metrics(tmp_path)
    first.add(record_of(0, "text"))
    first.close()
    with (tmp_path / "metrics.jsonl").open("a") as lines_file:
        lines_file.write('{"rou')
    metrics = Metrics(tmp_path, first=1)
    metrics.add(record_of(1, "text"))
    metrics.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == [0, 1]
