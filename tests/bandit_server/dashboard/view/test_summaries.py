"""The tables' rows."""

import pytest

from bandit_server.dashboard.view.summaries import run_row, worker_row
from protos.optima.v1 import bandit_pb2 as pb


@pytest.mark.parametrize(("reports", "planned", "done"), [(29, 30, False), (30, 30, True), (5, 0, False)])
def test_a_worker_that_has_played_all_its_rounds_is_done(reports: int, planned: int, done: bool) -> None:
    assert worker_row(pb.WorkerStatus(worker="w", reports=reports), 0.0, planned)["done"] is done


def test_a_loss_that_was_measured_once_has_not_fallen_yet() -> None:
    once = pb.RunSummary(first_loss=2.5, last_loss=2.5, recent_losses=[2.5])
    twice = pb.RunSummary(first_loss=2.5, last_loss=0.5, recent_losses=[2.5, 0.5])
    assert run_row(once)["decrement"] is None
    assert run_row(twice)["decrement"] == 0.8
