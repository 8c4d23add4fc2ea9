"""The server's choices reach the trainer, except in the tail; a round's record becomes its report."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from protos.optima.v1 import bandit_pb2 as pb
from tests.worker.training.test_tracking import EVALUATED, ROUND
from worker.client.client import Reported
from worker.client.journal import Pull
from worker.recipe.recipe import Recipe
from worker.training.chooser import ServerChooser, measurement

PULL = Pull("image", 7, pb.CHOSEN_BY_POLICY)


class Client:
    """A bandit client without a server.

    Attributes:
        selected: The rounds of all selections.
        next_rounds: The next round of each report.
    """

    def __init__(self) -> None:
        self.selected: list[int] = []
        self.next_rounds: list[int | None] = []

    def select(self, round: int) -> Pull:
        self.selected.append(round)
        return PULL

    def report(
        self, round: int, arm: str, chosen_by: object, measured: pb.Measurement, next_round: int | None
    ) -> Reported:
        self.next_rounds.append(next_round)
        return Reported(0.25, duplicate=False, delivered=True)

    def heartbeat(self, round: int, step: int, steps_per_second: float) -> None:
        pass


def recipe(**fields: object) -> Recipe:
    content = {"teacher": {"model": "t"}, "student": {"keep": {}}, "data": {"name": "digits"}, **fields}
    return Recipe.model_validate(content)


@pytest.mark.parametrize(("rounds", "tail", "first_joint"), [(10, 0.3, 7), (10, 0.0, 10), (0, 0.0, 11)])
def test_the_tail_is_joint_and_the_server_is_asked_for_no_arm_in_it(rounds: int, tail: float, first_joint: int) -> None:
    client = Client()
    chooser = ServerChooser(client, recipe(rounds=rounds, tail=tail))  # type: ignore[arg-type]
    for number in range(rounds or 11):
        pull = chooser.select(number)
        assert pull is not None
        assert (pull.arm, pull.number) == (("joint", None) if number >= first_joint else ("image", 7))
        assert chooser.report(pull, replace(ROUND, round=number), last=False) == 0.25
    assert client.selected == list(range(min(first_joint, rounds or 11)))
    assert client.next_rounds == [
        n + 1 if n + 1 < (first_joint if rounds else 12) else None for n in range(rounds or 11)
    ]


def test_no_arm_is_asked_for_after_a_jobs_last_round() -> None:
    client = Client()
    ServerChooser(client, recipe()).report(PULL, ROUND, last=True)  # type: ignore[arg-type]
    assert client.next_rounds == [None]


def test_a_report_has_everything_that_was_measured() -> None:
    evaluated = replace(EVALUATED, after=1.5, evaluate_seconds=0.5)
    message = measurement(evaluated)
    assert message.outcome == pb.OUTCOME_MEASURED
    assert (message.before, message.after, message.train_loss) == (2.0, 1.5, 3.0)
    assert dict(message.terms) == evaluated.probe_terms
    assert (message.total_loss, dict(message.metrics)) == (7.0, {"accuracy": 0.75})
    assert (message.steps, message.seconds, message.probe_seconds) == (10, 1.0, 0.6)
    assert not measurement(ROUND).HasField("total_loss")


def test_a_diverged_round_reports_no_loss() -> None:
    message = measurement(replace(EVALUATED, after=None, train_loss=math.nan))
    assert message == pb.Measurement(steps=10, seconds=1.0, probe_seconds=0.1, outcome=pb.OUTCOME_DIVERGED)
