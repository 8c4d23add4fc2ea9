"""The tables' rows."""

import pytest

from bandit_server.dashboard.rows import worker_row
from protos.optima.v1 import bandit_pb2 as pb


@pytest.mark.parametrize(("reports", "planned", "done"), [(29, 30, False), (30, 30, True), (5, 0, False)])
def test_a_worker_that_has_played_all_its_rounds_is_done(reports: int, planned: int, done: bool) -> None:
    assert worker_row(pb.WorkerStatus(worker="w", reports=reports), 0.0, planned)["done"] is done
