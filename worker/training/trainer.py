"""The training loop: rounds of module-wise distillation (docs/architecture.md, "One round")."""

from __future__ import annotations

import math
import signal
import time
from dataclasses import dataclass, field

import torch

from protos.optima.v1 import bandit_pb2 as pb
from worker.client.client import BanditClient
from worker.client.journal import Pull
from worker.data.loader import TrainingBatches
from worker.distill.arms import JOINT
from worker.distill.plan import Plan, Planner
from worker.distill.teacher import Teacher
from worker.engine.engine import Engine
from worker.engine.process_group import Ranks
from worker.errors import Diverged, Interrupted
from worker.evaluation.probe import Evaluation, Probe
from worker.process import StopSignal
from worker.recipe.recipe import Recipe
from worker.training.checkpoint import Checkpoints
from worker.training.loop_state import LoopState
from worker.training.metrics import Record, RoundRecord
from worker.training.progress import Progress
from worker.training.rollback import RoundStart
from worker.training.tracking import Tracker

SAVE = 1
"""What a rank wishes between two steps: 0 for nothing, this, or the number of the signal that asks it to stop."""


@dataclass(frozen=True)
class Rank0:
    """What only rank 0 has: the one voice to the server, to the disk and to the terminal."""

    bandit: BanditClient
    record: Record
    progress: Progress
    trackers: tuple[Tracker, ...] = ()


@dataclass(frozen=True)
class Trained:
    """What a round of training gave: mean loss and terms over its steps and ranks, and its seconds."""

    loss: float
    terms: dict[str, float]
    seconds: float


@dataclass(frozen=True)
class Played:
    """A round and what came of it.

    Attributes:
        before: The bandit loss before it.
        after: The bandit loss after it; NaN or infinite if the student diverged.
        evaluation: Of the student after it, in the rounds that have one.
        probe_seconds: Measuring the bandit loss took.
        evaluate_seconds: The evaluation took.
    """

    round: int
    pull: Pull
    before: float
    after: float
    trained: Trained
    evaluation: Evaluation | None
    probe_seconds: float
    evaluate_seconds: float


@dataclass
class Trainer:
    """Plays rounds until there are no more, or the run is finished.

    Attributes:
        arms: Modules by arm.
        state: Where the job stands.
        batches: This rank's training batches, from the state's position on.
        began: When the job would have begun had it never been interrupted, by this process's clock.
        rank0: On rank 0; None on the others.
    """

    recipe: Recipe
    arms: dict[str, list[str]]
    ranks: Ranks
    engine: Engine
    teacher: Teacher
    planner: Planner
    probe: Probe
    checkpoints: Checkpoints
    state: LoopState
    batches: TrainingBatches
    began: float
    rank0: Rank0 | None = None
    _stop: StopSignal = field(default_factory=StopSignal, init=False)
    # Of the open round.
    _begun: RoundStart | None = field(default=None, init=False)

    def run(self) -> None:
        """Play rounds from where the job stands.

        Raises:
            Diverged: The loss is not finite, in too many rounds in a row.
            Interrupted: A signal asked the job to stop; a checkpoint is written.
        """
        if self.state.terms:
            self.probe.terms = dict(self.state.terms)
        elif not math.isfinite(self.probe.measure(self.planner.modules)):
            raise Diverged("the student's loss is not finite before any training; check the teacher and the data")
        with self._stop:
            while not self.recipe.rounds or self.state.round < self.recipe.rounds:
                if not self.play(self.state.round):
                    break
                self.state.next_round()
                self.keep()

    def play(self, round: int) -> bool:
        """One round; False when the run is finished."""
        pull = self.state.pull = self.state.pull or self.select(round)
        if pull is None:
            return False
        plan = self.plan(pull.arm)
        begun = self._begun = RoundStart(self.engine, plan.trained, self.state.round_start)
        before, terms = self.probe.loss, dict(self.probe.terms)
        trained = self.train(plan)
        started = time.monotonic()
        after = self.probe.measure(plan.trained) if math.isfinite(trained.loss) else math.nan
        probed = time.monotonic()
        if math.isfinite(after):
            self.state.diverged = 0
        else:
            begun.restore()
            self.probe.terms = terms
            self.state.diverged += 1
        evaluation = self.evaluate(round)
        took = probed - started, time.monotonic() - probed
        self._begun = None
        self.report(Played(round, pull, before, after, trained, evaluation, *took))
        if self.gives_up:
            raise Diverged(
                f"round {round}: the loss is not finite after training arm {pull.arm!r}, for the "
                f"{self.state.diverged}. round in a row; lower optimizer.lr or check the data"
            )
        return True

    def keep(self) -> None:
        """Between two steps: write a checkpoint if it is time, or if a signal came to any rank; then stop.

        The launcher tells one rank after another, and waits for each: so all ask each other.
        """
        wish = self.ranks.highest(self._stop.number or SAVE * (self.rank0 is not None and self.checkpoints.due))
        if not wish:
            return
        self.state.terms = dict(self.probe.terms)
        self.state.elapsed = time.monotonic() - self.began
        self.state.cursors = dict(self.batches.cursors)
        self.state.round_start = self._begun.state() if self._begun else None
        self.checkpoints.save(self.engine, self.state)
        if wish != SAVE:
            steps = f", after {self.state.step} of its {self.recipe.steps_per_round} steps" if self.state.step else ""
            raise Interrupted(
                f"stopped by {signal.Signals(wish).name} in round {self.state.round}{steps}; to go on from there, give "
                f"--resume {self.checkpoints.directory.parent} to worker/train.py, and no recipe",
                wish,
            )

    def select(self, round: int) -> Pull | None:
        """The arm to train: the server's choice, or joint in the tail. The same on every rank."""
        if self.in_tail(round):
            return Pull(arm=JOINT, number=None, chosen_by=pb.CHOSEN_BY_TAIL)
        pull: Pull | None = self.ranks.broadcast(self.rank0.bandit.select(round) if self.rank0 else None)
        return pull

    def in_tail(self, round: int) -> bool:
        """Whether nobody is asked for the round's arm; so after the last round."""
        return bool(self.recipe.rounds) and round >= self.recipe.rounds - self.recipe.tail_rounds

    @property
    def gives_up(self) -> bool:
        """Whether too many rounds in a row have diverged."""
        return self.state.diverged == self.recipe.max_diverged

    def plan(self, arm: str) -> Plan:
        """What a round on this arm trains."""
        return self.planner.joint() if arm == JOINT else self.planner.arm(self.arms[arm])

    def train(self, plan: Plan) -> Trained:
        """What is left of ``steps_per_round`` optimizer steps."""
        state = self.state
        self.engine.activate(plan.trained)
        started = time.monotonic()
        while state.step < self.recipe.steps_per_round:
            micro_batches = []
            for _ in range(self.engine.accumulation):
                batch = self.engine.to_device(next(self.batches))
                micro_batches.append((batch, self.teacher.run(plan.teacher, batch)))
            loss, terms = self.engine.step(micro_batches, plan)
            state.rows.append({"loss": loss, **terms})
            state.position += self.engine.accumulation
            state.step += 1
            state.seconds += time.monotonic() - started
            self.keep()
            started = time.monotonic()
        names = sorted(state.rows[0])
        rows = torch.stack([torch.stack([row[name] for row in state.rows]) for name in names])
        means = dict(zip(names, self.ranks.gather(rows.mean(1)).mean(0).tolist(), strict=True))
        # A device may have been behind until now.
        state.seconds += time.monotonic() - started
        return Trained(means.pop("loss"), means, state.seconds)

    def evaluate(self, round: int) -> Evaluation | None:
        """End-to-end loss and task metrics, every few rounds and after the last."""
        last = self.recipe.rounds and round == self.recipe.rounds - 1
        if last or (round + 1) % self.recipe.probe.evaluate_every == 0:
            return self.probe.evaluate()
        return None

    def report(self, played: Played) -> None:
        """Tell the server, the disk and the terminal what came of a round; rank 0 only."""
        if self.rank0 is None:
            return
        steps = self.recipe.steps_per_round
        pull, trained, evaluation = played.pull, played.trained, played.evaluation
        measurement = pb.Measurement(
            steps=steps, seconds=trained.seconds, probe_seconds=played.probe_seconds + played.evaluate_seconds
        )
        if math.isfinite(played.after):
            measurement.outcome = pb.OUTCOME_MEASURED
            measurement.before, measurement.after = played.before, played.after
            measurement.terms.update(self.probe.terms)
            if math.isfinite(trained.loss):
                measurement.train_loss = trained.loss
            if evaluation:
                measurement.total_loss = evaluation.total_loss
                measurement.metrics.update(evaluation.metrics)
        else:
            measurement.outcome = pb.OUTCOME_DIVERGED
        next_round = None if self.gives_up or self.in_tail(played.round + 1) else played.round + 1
        reported = self.rank0.bandit.report(played.round, pull.arm, pull.chosen_by, measurement, next_round)
        self.rank0.bandit.heartbeat(played.round + 1, self.engine.schedule.step, steps / trained.seconds)
        record = RoundRecord(
            round=played.round,
            arm=pull.arm,
            chosen_by=pb.ChosenBy.Name(pull.chosen_by).removeprefix("CHOSEN_BY_").lower(),
            before=played.before,
            after=played.after if math.isfinite(played.after) else None,
            reward=reported.reward,
            train_loss=trained.loss,
            train_terms=trained.terms,
            probe_terms=dict(self.probe.terms),
            evaluation=evaluation,
            steps=steps,
            step=self.engine.schedule.step,
            seconds=trained.seconds,
            probe_seconds=played.probe_seconds,
            evaluate_seconds=played.evaluate_seconds,
        )
        self.rank0.record.add(record)
        for tracker in self.rank0.trackers:
            tracker.tell(record)
        self.rank0.progress.show(record)
