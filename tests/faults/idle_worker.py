"""A worker that trains nothing, in the run "r"; and the check that every round of such workers counts once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.server_process import ServerProcess
from worker.client.testing import ScriptedWorker

PATIENCE = 0.5


def idle_worker(address: str, directory: Path, worker: str = "w", patience: float = PATIENCE) -> ScriptedWorker:
    """Return a worker that has joined the run "r"."""
    return ScriptedWorker(address, "r", directory, worker, patience=patience)


def assert_every_reward_counts_once(server: ServerProcess, *workers: ScriptedWorker) -> None:
    """Check that the server has exactly the rounds that the workers have played."""
    reports = server.reports()
    for worker in workers:
        ours = {r.pull.round: r for r in reports if r.pull.worker == worker.client.worker}
        assert sum(r.pull.worker == worker.client.worker for r in reports) == len(ours), "a round was counted twice"
        assert {round: (r.pull.arm, r.measurement) for round, r in ours.items()} == {
            round: (played.pull.arm, played.measurement) for round, played in worker.played.items()
        }
        assert all(r.reward == pytest.approx(1 - r.measurement.after) for r in ours.values())
    numbers = [r.pull.number for r in reports]
    assert len(set(numbers)) == len(numbers), "two pulls have the same number"
