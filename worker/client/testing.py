"""A worker without a model, for tests: it plays rounds on a real server with the real client and scripted losses.

    with ScriptedWorker("127.0.0.1:50051", "my-run", Path("journals")) as worker:
        worker.play(20)

It needs neither torch nor a GPU. Use it to test a deployment of the server, a policy's options, or a dashboard.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from protos.optima.v1 import bandit_pb2 as pb
from worker.client.client import BanditClient, Reported
from worker.client.credentials import Credentials
from worker.client.journal import Journal, Pull

ARMS = ("image", "text", "decoder")


def example_spec(arms: Sequence[str] = ARMS, policy: str = "optima", seed: int = 7) -> pb.RunSpec:
    """Return the spec of an endless run in which every arm has one module of its own name.

    Args:
        arms: Names of the arms.
        policy: Name of the policy.
        seed: Seed of the policy.
    """
    return pb.RunSpec(
        arms=[pb.Arm(name=name, modules=[name]) for name in arms],
        policy=pb.PolicySpec(name=policy),
        seed=seed,
        reward=pb.REWARD_KIND_RELATIVE,
        train=pb.TRAIN_MODE_FORCED,
        steps_per_round=1,
    )


def measure(before: float, after: float) -> pb.Measurement:
    """Return the result of a round of one step.

    Args:
        before: The loss before the round.
        after: The loss after it. The relative reward is ``1 - after / before``.
    """
    return pb.Measurement(outcome=pb.OUTCOME_MEASURED, before=before, after=after, steps=1, seconds=0.1)


def numbered_losses(round: int, arm: str) -> pb.Measurement:
    """Return a result that identifies its round: the relative reward is ``(round + 1) / 1,000,000``."""
    return measure(1.0, 1 - (round + 1) / 1e6)


@dataclass(frozen=True)
class PlayedRound:
    """A round that the worker has played.

    Attributes:
        pull: The arm.
        measurement: The scripted result.
        reported: The server's answer to the report.
    """

    pull: Pull
    measurement: pb.Measurement
    reported: Reported


class ScriptedWorker:
    """A worker that trains nothing. It joins its run when it is created.

    A second one with the same name and directory acts as a newer process of the same worker: it resumes from the
    journal and fences the first.

    Args:
        address: The server's address, ``host:port``.
        run: The run's name. The run is created if it does not exist.
        directory: The directory of the journal, ``WORKER.jsonl``.
        worker: The worker's id.
        spec: The run's spec; by default `example_spec`.
        train: Returns the result of a round, given its number and arm. It may take time, as training does.
        patience: Seconds to wait for the server in one outage, in total.
        info: The worker's description of itself.
        credentials: Token and certificates.

    Attributes:
        client: The worker's client.
        next_round: The number of the next round.
        played: The rounds that this process has played, by number.
        waited: Seconds spent in calls of the client so far.
    """

    def __init__(
        self,
        address: str,
        run: str,
        directory: Path,
        worker: str = "w",
        *,
        spec: pb.RunSpec | None = None,
        train: Callable[[int, str], pb.Measurement] = numbered_losses,
        patience: float = 10.0,
        info: pb.WorkerInfo | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        self.client = BanditClient(
            address,
            run=run,
            worker=worker,
            spec=spec or example_spec(),
            journal=Journal(directory / f"{worker}.jsonl"),
            patience=patience,
            info=info,
            credentials=credentials,
        )
        self.next_round = self.client.start().next_round
        self.played: dict[int, PlayedRound] = {}
        self.waited = 0.0
        self._train = train

    def play(self, rounds: int = 1) -> list[PlayedRound]:
        """Play so many rounds, or fewer if the run is finished.

        Raises:
            Fenced: A newer process of this worker has started.
            JournalError: The journal cannot be written.
        """
        played: list[PlayedRound] = []
        for round in range(self.next_round, self.next_round + rounds):
            began = time.monotonic()
            pull = self.client.select(round)
            self.waited += time.monotonic() - began
            if pull is None:
                break
            played.append(self._play_round(round, pull))
        return played

    def close(self) -> None:
        """Close the client and the journal."""
        self.client.close()

    def _play_round(self, round: int, pull: Pull) -> PlayedRound:
        measurement = self._train(round, pull.arm)
        began = time.monotonic()
        reported = self.client.report(round, pull.arm, pull.chosen_by, measurement, next_round=round + 1)
        self.waited += time.monotonic() - began
        self.played[round] = PlayedRound(pull, measurement, reported)
        self.next_round = round + 1
        return self.played[round]

    def __enter__(self) -> ScriptedWorker:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()
