"""A worker that trains nothing, for tests of what happens to its rounds."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from protos.optima.v1 import bandit_pb2 as pb
from tests.server_process import ServerProcess
from worker.client.client import BanditClient, Reported
from worker.client.journal import Journal, Pull

PATIENCE = 0.5
SPEC = pb.RunSpec(
    arms=[pb.Arm(name=name, modules=[name]) for name in ("image", "text", "decoder")],
    policy=pb.PolicySpec(name="optima"),
    seed=7,
    reward=pb.REWARD_KIND_RELATIVE,
    train=pb.TRAIN_MODE_FORCED,
    steps_per_round=1,
)


class Worker:
    """A client that plays rounds without training, and measures how long the trainer's thread waits.

    Attributes:
        losses: The loss after each round, as reported.
        arms: The arm of each round.
        seconds: Seconds spent waiting in the client.
    """

    def __init__(self, address: str, directory: Path, worker: str = "w", patience: float = PATIENCE) -> None:
        journal = Journal(directory / f"{worker}.jsonl")
        self.client = BanditClient(address, run="r", worker=worker, spec=SPEC, journal=journal, patience=patience)
        self.next_round = self.client.start().next_round
        self.losses: dict[int, float] = {}
        self.arms: list[str] = []
        self.seconds = 0.0

    def play(self, rounds: int = 1) -> list[tuple[Pull, Reported]]:
        """Select and report the next rounds."""
        played = []
        for round in range(self.next_round, self.next_round + rounds):
            start = time.monotonic()
            pull = self.client.select(round)
            assert pull is not None
            self.losses[round] = 1 - (round + 1) / 1000
            measurement = pb.Measurement(
                outcome=pb.OUTCOME_MEASURED, before=1.0, after=self.losses[round], steps=1, seconds=0.1
            )
            played.append((pull, self.client.report(round, pull.arm, pull.chosen_by, measurement, round + 1)))
            self.arms.append(pull.arm)
            self.seconds += time.monotonic() - start
        self.next_round += rounds
        return played

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()


def assert_every_reward_counts_once(server: ServerProcess, *workers: Worker) -> None:
    reports = server.reports()
    for worker in workers:
        ours = {r.pull.round: r for r in reports if r.pull.worker == worker.client.worker}
        assert sum(r.pull.worker == worker.client.worker for r in reports) == len(ours), "a round was counted twice"
        assert {round: r.measurement.after for round, r in ours.items()} == worker.losses
        assert [ours[round].pull.arm for round in sorted(ours)] == worker.arms
        assert all(r.reward == pytest.approx(1 - r.measurement.after) for r in ours.values())
    numbers = [r.pull.number for r in reports]
    assert len(set(numbers)) == len(numbers), "two pulls have the same number"
