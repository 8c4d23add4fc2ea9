"""The training loop: rounds of module-wise distillation (docs/architecture.md, "One round")."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import torch

from protos.optima.v1 import bandit_pb2 as pb
from worker.client.journal import Pull
from worker.data.loader import TrainingBatches
from worker.distill.plan import Plan
from worker.errors import Diverged, Interrupted
from worker.evaluation.probe import Evaluation, Probe
from worker.process import StopSignal
from worker.recipe.recipe import Recipe
from worker.setup.build import Components
from worker.training.checkpoint import Checkpoints
from worker.training.chooser import Chooser
from worker.training.loop_state import LoopState
from worker.training.metrics import RoundRecord, Sink
from worker.training.rollback import Rollback

SAVE = 1
"""A rank's request between two steps: 0 for none, this for a checkpoint, or the number of a signal to stop at."""


@dataclass(frozen=True)
class TrainedRound:
    """The training of a round: mean loss and mean terms over its steps and ranks, and its seconds."""

    loss: float
    terms: dict[str, float]
    seconds: float


@dataclass
class Trainer:
    """Plays rounds until the recipe's last one, or until the run is finished.

    Attributes:
        recipe: The recipe, without open numbers.
        components: This rank's components.
        probe: Measures the student around each round.
        batches: This rank's training batches, from the state's position on.
        state: The state of the loop.
        checkpoints: Where checkpoints are written; None for a job without, which signals end as they end any process.
        chooser: Chooses the arms; on rank 0, None on other ranks.
        sinks: Take the record of every round; on rank 0, none on other ranks.
        began: When the job would have begun without interruptions, by this process's monotonic clock.
    """

    recipe: Recipe
    components: Components
    probe: Probe
    batches: TrainingBatches
    state: LoopState = field(default_factory=LoopState)
    checkpoints: Checkpoints | None = None
    chooser: Chooser | None = None
    sinks: Sequence[Sink] = ()
    began: float = field(default_factory=time.monotonic)
    _stop: StopSignal = field(default_factory=StopSignal, init=False)
    # Of the round being played.
    _rollback: Rollback | None = field(default=None, init=False)

    def run(self) -> None:
        """Play rounds from the state on.

        Raises:
            Diverged: The loss is not finite, in too many rounds in a row.
            Interrupted: A signal asked the job to stop; a checkpoint is written.
        """
        recipe, state = self.recipe, self.state
        self.components.engine.schedule.total_steps = recipe.rounds * recipe.steps_per_round
        if state.terms:
            self.probe.terms = dict(state.terms)
        elif not math.isfinite(self.probe.measure(self.components.planner.modules)):
            raise Diverged("the student's loss is not finite before any training; check the teacher and the data")
        with self._stop if self.checkpoints is not None else nullcontext():
            while not recipe.rounds or state.round < recipe.rounds:
                if not self.play(state.round):
                    break
                state.next_round()
                self.checkpoint()

    def play(self, round: int) -> bool:
        """Play one round; return False if there is none, because the run is finished."""
        pull = self.state.pull = self.state.pull or self.select(round)
        if pull is None:
            return False
        plan = self.components.plan(pull.arm)
        rollback = self._rollback = Rollback(self.components.engine, plan.trained, self.state.round_start)
        before, terms_before = self.probe.loss, dict(self.probe.terms)
        trained = self.train(plan, self.recipe.steps_per_round)
        started = time.monotonic()
        after = self.probe.measure(plan.trained) if math.isfinite(trained.loss) else math.nan
        probed = time.monotonic()
        if math.isfinite(after):
            self.state.diverged = 0
        else:
            rollback.restore()
            self.probe.terms = terms_before
            self.state.diverged += 1
        evaluation = self.evaluate(round)
        evaluated = time.monotonic()
        self._rollback = None
        record = RoundRecord(
            round=round,
            arm=pull.arm,
            chosen_by=pb.ChosenBy.Name(pull.chosen_by).removeprefix("CHOSEN_BY_").lower(),
            before=before,
            after=after if math.isfinite(after) else None,
            reward=None,
            train_loss=trained.loss,
            train_terms=trained.terms,
            probe_terms=dict(self.probe.terms),
            evaluation=evaluation,
            steps=self.recipe.steps_per_round,
            step=self.components.engine.schedule.step,
            seconds=trained.seconds,
            probe_seconds=probed - started,
            evaluate_seconds=evaluated - probed,
        )
        gives_up = self.state.diverged == self.recipe.max_diverged
        self.report(pull, record, last=gives_up or round + 1 == self.recipe.rounds)
        if gives_up:
            raise Diverged(
                f"round {round}: the loss is not finite after training arm {pull.arm!r}, in {self.state.diverged} "
                "rounds in a row; lower optimizer.lr or check the data"
            )
        return True

    def select(self, round: int) -> Pull | None:
        """Return the arm that rank 0's chooser selects, or None if the run is finished; collective."""
        pull: Pull | None = self.components.process_group.broadcast(
            self.chooser.select(round) if self.chooser else None
        )
        return pull

    def train(self, plan: Plan, steps: int) -> TrainedRound:
        """Take the remaining optimizer steps of a round of so many steps; collective."""
        state, engine, teacher = self.state, self.components.engine, self.components.teacher
        engine.activate(plan.trained)
        started = time.monotonic()
        while state.step < steps:
            micro_batches = []
            for _ in range(engine.accumulation):
                batch = engine.to_device(next(self.batches))
                micro_batches.append((batch, teacher.run(plan.teacher, batch)))
            loss, terms = engine.step(micro_batches, plan)
            state.rows.append({"loss": loss, **terms})
            state.position += engine.accumulation
            state.step += 1
            state.seconds += time.monotonic() - started
            self.checkpoint()
            started = time.monotonic()
        names = sorted(state.rows[0])
        rows = torch.stack([torch.stack([row[name] for row in state.rows]) for name in names])
        means = self.components.process_group.all_gather(rows.mean(1)).mean(0).tolist()
        # A device may have been behind until these numbers were read.
        state.seconds += time.monotonic() - started
        mean_terms = dict(zip(names, means, strict=True))
        return TrainedRound(mean_terms.pop("loss"), mean_terms, state.seconds)

    def evaluate(self, round: int) -> Evaluation | None:
        """Measure end-to-end loss and task metrics, every few rounds and after the last; collective."""
        is_last = self.recipe.rounds and round == self.recipe.rounds - 1
        if is_last or (round + 1) % self.recipe.probe.evaluate_every == 0:
            return self.probe.evaluate()
        return None

    def report(self, pull: Pull, record: RoundRecord, *, last: bool) -> None:
        """Report a round to the chooser, and pass its record, with the reward, to the sinks; rank 0 only."""
        if self.chooser is None:
            return
        record = replace(record, reward=self.chooser.report(pull, record, last=last))
        for sink in self.sinks:
            sink.add(record)

    def checkpoint(self) -> None:
        """Write a checkpoint if one is due, or if a signal has come to any rank; then stop. Collective, between steps.

        The launcher signals one rank after the other and waits for each, so the ranks have to agree.
        """
        if self.checkpoints is None:
            return
        is_due = self.chooser is not None and self.checkpoints.due
        request = self.components.process_group.all_reduce_max(self._stop.number or SAVE * is_due)
        if not request:
            return
        self.state.terms = dict(self.probe.terms)
        self.state.elapsed = time.monotonic() - self.began
        self.state.cursors = dict(self.batches.cursors)
        self.state.round_start = self._rollback.state() if self._rollback else None
        self.checkpoints.save(self.components.engine, self.state)
        if request != SAVE:
            steps = f", after {self.state.step} of its {self.recipe.steps_per_round} steps" if self.state.step else ""
            raise Interrupted(
                f"stopped by {signal.Signals(request).name} in round {self.state.round}{steps}; to continue, run "
                f"worker/train.py with --resume {self.checkpoints.directory.parent} and without a recipe",
                request,
            )
