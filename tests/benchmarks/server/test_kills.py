"""`python -m benchmarks.server.kills`; that nothing is lost is tested in tests/faults/test_under_load.py."""

from __future__ import annotations

from benchmarks.server.load import count_outcomes
from protos.optima.v1 import bandit_pb2 as pb
from tests.benchmarks.command import benchmark


def report(worker: str, round: int, arm: str, after: float, number: int) -> pb.Event:
    pull = pb.Pull(worker=worker, round=round, arm=arm, number=number, chosen_by=pb.CHOSEN_BY_POLICY)
    return pb.Event(reward_reported=pb.RewardReported(pull=pull, measurement=pb.Measurement(after=after)))


def test_what_is_lost_doubled_or_changed_is_counted() -> None:
    reports = {"a": {0: ("image", 0.9), 1: ("text", 0.8)}, "b": {0: ("image", 0.7)}}
    whole = [report("a", 0, "image", 0.9, 0), report("a", 1, "text", 0.8, 1), report("b", 0, "image", 0.7, 2)]
    nothing = {"reports": 3, "by_the_worker": 0, "lost": 0, "doubled": 0, "other": 0, "numbers": 0}
    assert count_outcomes(reports, whole) == nothing
    assert count_outcomes(reports, whole[:2]) == {**nothing, "lost": 1}
    assert count_outcomes(reports, [*whole, whole[0]]) == {**nothing, "doubled": 1, "numbers": 1}
    assert count_outcomes(reports, [*whole[:2], report("b", 0, "text", 0.7, 2)]) == {**nothing, "other": 1}
    assert count_outcomes(reports, [*whole[:2], report("b", 0, "image", 0.7, 1)]) == {**nothing, "numbers": 1}


def test_bad_input_is_one_sentence() -> None:
    output = benchmark("server.kills", "--kills", "0", status=2)
    assert "argument --kills: '0' is not a whole number from 1" in output
