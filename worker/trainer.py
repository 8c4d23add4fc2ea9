"""The loop: rounds of module-wise distillation (DESIGN.md §3)."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from protos.optima.v1 import bandit_pb2 as pb
from worker.arms import JOINT
from worker.bandit_client import BanditClient, Pull
from worker.data.base import Batch
from worker.engine import Engine, Ranks
from worker.errors import Diverged
from worker.metrics import Record, RoundRecord
from worker.plan import Plan, Planner
from worker.probe import Evaluation, Probe
from worker.progress import Progress
from worker.recipe import Recipe
from worker.teacher import Teacher


@dataclass(frozen=True)
class Rank0:
    """What only rank 0 has: the one voice to the server, to the disk and to the terminal."""

    bandit: BanditClient
    record: Record
    progress: Progress


@dataclass(frozen=True)
class Trained:
    """What a round of training gave: mean loss and terms over its steps and ranks, and its seconds."""

    loss: float
    terms: dict[str, float]
    seconds: float


@dataclass
class Trainer:
    """Plays rounds until there are no more, or the run is finished.

    Attributes:
        arms: Modules by arm.
        rank0: On rank 0; None on the others.
        batches: This rank's training batches.
    """

    recipe: Recipe
    arms: dict[str, list[str]]
    ranks: Ranks
    engine: Engine
    teacher: Teacher
    planner: Planner
    probe: Probe
    batches: Iterator[Batch]
    rank0: Rank0 | None = None
    _measured_steps: int = field(default=0, init=False)

    def run(self, first_round: int) -> int:
        """Play rounds from ``first_round`` on; returns how many were played.

        Raises:
            Diverged: The loss is not finite any more.
        """
        self.probe.measure(self.planner.modules)
        round = first_round
        while not self.recipe.rounds or round < self.recipe.rounds:
            if not self.play(round):
                break
            round += 1
        return round - first_round

    def play(self, round: int) -> bool:
        """One round; False when the run is finished."""
        pull = self.select(round)
        if pull is None:
            return False
        plan = self.plan(pull.arm)
        before = self.probe.loss
        trained = self.train(plan)
        started = time.monotonic()
        after = self.probe.measure(plan.trained)
        evaluation = self.evaluate(round)
        self.report(round, pull, before, after, trained, evaluation, time.monotonic() - started)
        if not math.isfinite(after):
            raise Diverged(
                f"round {round}: the loss is not finite after training arm {pull.arm!r}; "
                "lower optimizer.lr or check the data"
            )
        return True

    def select(self, round: int) -> Pull | None:
        """The arm to train: the server's choice, or joint in the tail. The same on every rank."""
        if self.recipe.rounds and round >= self.recipe.rounds - self.recipe.tail_rounds:
            return Pull(arm=JOINT, number=None, chosen_by=pb.CHOSEN_BY_TAIL)
        pull: Pull | None = self.ranks.broadcast(self.rank0.bandit.select(round) if self.rank0 else None)
        return pull

    def plan(self, arm: str) -> Plan:
        """What a round on this arm trains."""
        return self.planner.joint() if arm == JOINT else self.planner.arm(self.arms[arm])

    def train(self, plan: Plan) -> Trained:
        """``steps_per_round`` optimizer steps."""
        self.engine.activate(plan.trained)
        started = time.monotonic()
        losses, terms = [], []
        for _ in range(self.recipe.steps_per_round):
            micro_batches = []
            for _ in range(self.engine.accumulation):
                batch = self.engine.to_device(next(self.batches))
                micro_batches.append((batch, self.teacher.run(plan.teacher, batch)))
            loss, computed = self.engine.step(micro_batches, plan)
            losses.append(loss)
            terms.append(computed)
        names = sorted(terms[0])
        sums = torch.stack([torch.stack(losses), *(torch.stack([t[n] for t in terms]) for n in names)])
        loss, *means = self.ranks.gather(sums.mean(1)).mean(0).tolist()
        return Trained(loss, dict(zip(names, means, strict=True)), time.monotonic() - started)

    def evaluate(self, round: int) -> Evaluation | None:
        """End-to-end loss and task metrics, every few rounds and after the last."""
        last = self.recipe.rounds and round == self.recipe.rounds - 1
        if last or (round + 1) % self.recipe.probe.evaluate_every == 0:
            return self.probe.evaluate()
        return None

    def report(
        self,
        round: int,
        pull: Pull,
        before: float,
        after: float,
        trained: Trained,
        evaluation: Evaluation | None,
        probe_seconds: float,
    ) -> None:
        """Tell the server, the disk and the terminal what came of a round; rank 0 only."""
        if self.rank0 is None:
            return
        steps = self.recipe.steps_per_round
        measurement = pb.Measurement(steps=steps, seconds=trained.seconds, probe_seconds=probe_seconds)
        if math.isfinite(after):
            measurement.outcome = pb.OUTCOME_MEASURED
            measurement.before, measurement.after = before, after
            measurement.terms.update(self.probe.terms)
            if math.isfinite(trained.loss):
                measurement.train_loss = trained.loss
            if evaluation:
                measurement.total_loss = evaluation.total_loss
                measurement.metrics.update(evaluation.metrics)
        else:
            measurement.outcome = pb.OUTCOME_DIVERGED
        reported = self.rank0.bandit.report(round, pull.arm, pull.chosen_by, measurement)
        self.rank0.bandit.heartbeat(round + 1, self.engine.schedule.step, steps / trained.seconds)
        record = RoundRecord(
            round=round,
            arm=pull.arm,
            chosen_by=pb.ChosenBy.Name(pull.chosen_by).removeprefix("CHOSEN_BY_").lower(),
            before=before,
            after=after if math.isfinite(after) else None,
            reward=reported.reward,
            train_loss=trained.loss,
            train_terms=trained.terms,
            probe_terms=dict(self.probe.terms),
            evaluation=evaluation,
            steps=steps,
            step=self.engine.schedule.step,
            seconds=trained.seconds,
            probe_seconds=probe_seconds,
        )
        self.rank0.record.add(record)
        self.rank0.progress.show(record)
