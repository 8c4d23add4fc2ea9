"""The choice of each round's arm: what the trainer asks for, and the bandit server's answer."""

from __future__ import annotations

from typing import Protocol

from protos.optima.v1 import bandit_pb2 as pb
from worker.client.client import BanditClient
from worker.client.journal import Pull
from worker.distill.arms import JOINT
from worker.recipe.recipe import Recipe
from worker.training.metrics import RoundRecord


class Chooser(Protocol):
    """Chooses the arms of a job's rounds. It runs on rank 0, which broadcasts the choices."""

    def select(self, round: int) -> Pull | None:
        """Return the arm of a round; None if the run is finished and there is no such round."""

    def report(self, pull: Pull, record: RoundRecord, *, last: bool) -> float | None:
        """Take the results of a round.

        Args:
            pull: The choice, as `select` returned it.
            record: What was measured; its reward is not known yet.
            last: Whether the job ends with this round.

        Returns:
            The reward; None if the round has none or it is not known.
        """


class ServerChooser:
    """Chooses as the bandit server says, and joint in the tail.

    Args:
        client: The client, which has joined the run.
        recipe: The recipe, without open numbers.
    """

    def __init__(self, client: BanditClient, recipe: Recipe) -> None:
        self._client = client
        self._first_tail_round = recipe.rounds - recipe.tail_rounds if recipe.rounds else None

    def select(self, round: int) -> Pull | None:
        """Return the server's choice, or joint in the tail, without asking the server."""
        if self._in_tail(round):
            return Pull(arm=JOINT, number=None, chosen_by=pb.CHOSEN_BY_TAIL)
        return self._client.select(round)

    def report(self, pull: Pull, record: RoundRecord, *, last: bool) -> float | None:
        """Report a round to the server and return the reward that it computed."""
        # The same call to the server asks for the next round's arm.
        next_round = None if last or self._in_tail(record.round + 1) else record.round + 1
        reported = self._client.report(record.round, pull.arm, pull.chosen_by, measurement(record), next_round)
        self._client.heartbeat(record.round + 1, record.step, record.steps / record.seconds)
        return reported.reward

    def _in_tail(self, round: int) -> bool:
        """Return whether a round is in the tail, or after the last one: its arm is not the server's to choose."""
        return self._first_tail_round is not None and round >= self._first_tail_round


def measurement(record: RoundRecord) -> pb.Measurement:
    """Return a round's record as the message that is reported to the server."""
    message = pb.Measurement(
        steps=record.steps,
        seconds=record.seconds,
        probe_seconds=record.probe_seconds + record.evaluate_seconds,
        outcome=pb.OUTCOME_DIVERGED if record.after is None else pb.OUTCOME_MEASURED,
    )
    if record.after is not None:
        message.before, message.after = record.before, record.after
        message.terms.update(record.probe_terms)
        message.train_loss = record.train_loss
        if record.evaluation is not None:
            message.total_loss = record.evaluation.total_loss
            message.metrics.update(record.evaluation.metrics)
    return message
