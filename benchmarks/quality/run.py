"""One run of the study, by the worker's own trainer, engine and data and the server's own rules, in this process.

What is added to the worker is the budget: the job ends, its tail begins and its learning rate falls by calibrated
seconds instead of by rounds, because rounds of different arms cost differently.
"""

from __future__ import annotations

import gc
import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from benchmarks.quality.cost import Ledger
from benchmarks.quality.grid import METHODS, Cell, Method
from benchmarks.quality.judge import GLANCE, LOOK, Judge, Judged
from benchmarks.quality.local_bandit import Chooser, LocalRun, Shares
from benchmarks.quality.tasks import TaskData
from protos.optima.v1 import bandit_pb2 as pb
from worker.client.journal import Pull
from worker.data.loader import training_batches
from worker.distill.arms import JOINT
from worker.engine.process_group import Ranks
from worker.evaluation.probe import Evaluation, Probe
from worker.recipe.recipe import Recipe
from worker.setup import models as assemble
from worker.setup.build import Rig, assemble_rig
from worker.training.checkpoint import Checkpoints
from worker.training.loop_state import LoopState
from worker.training.rollback import RoundStart
from worker.training.trainer import Played, Trainer

RESULTS = (0.25, 0.5, 1.0)
"""Shares of the budget at which a run is judged on many items."""
POINTS = 12
"""Points of a curve, at equal distances in cost."""
TURNS, STEPS_A_TURN = 9, 2
"""Of a calibration: its kinds of work take turns, so that what else the machine does falls on all alike."""

Seconds = dict[str, float]


def alone() -> Ranks:
    """This process as the only rank."""
    where = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    os.environ.update({name: value for name, value in where.items() if name not in os.environ})
    return Ranks()


class EndToEnd(Probe):
    """A probe that measures the whole loss, also where rounds train modules on the teacher's inputs."""

    def measure(self, trained: Sequence[str]) -> float:
        """See Probe."""
        self.terms = self._terms(self.planner.joint())
        return self.loss


class Budgeted(Trainer):
    """Plays rounds until the budget is spent."""

    method: Method
    ledger: Ledger
    budget: float
    judge: Judge
    bandit: Chooser | None
    played: list[str]
    seen: list[tuple[float, Judged]]

    def spend(self, cell: Cell, seconds: Seconds, judge: Judge) -> None:
        """The whole run."""
        self.method, self.budget, self.judge = METHODS[cell.method], cell.budget, judge
        self.ledger, self.played, self.seen = Ledger(seconds), [], []
        self.bandit = None
        if self.method.shares:
            self.bandit = Shares(dict(zip(self.arms, self.method.shares, strict=True)))
        elif self.method.policy:
            spec = self.recipe.spec(self.arms)
            if self.method.absolute:
                spec.reward = pb.REWARD_KIND_ABSOLUTE
            self.bandit = LocalRun(spec)
        if self.bandit is not None:
            self.probe.measure(self.planner.modules)
        while self.ledger.spent < self.budget:
            # The rate falls over what the budget is, whatever the steps have cost so far.
            done = self.ledger.spent / self.budget
            mean = seconds[f"step/{JOINT}"]
            self.engine.schedule.total_steps = (
                round(self.engine.schedule.step / done) if done else round(self.budget / mean)
            )
            self.play(self.state.round)
            self.state.next_round()

    def select(self, round: int) -> Pull:
        """Joint in the tail, and else what the run's policy says."""
        if self.bandit is None or self.ledger.spent >= (1 - self.method.tail) * self.budget:
            return Pull(JOINT, None, pb.CHOSEN_BY_TAIL)
        pull = self.bandit.select(round)
        return Pull(pull.arm, pull.number, pull.chosen_by)

    def evaluate(self, round: int) -> Evaluation | None:
        """Judging is outside of the job, and costs it nothing."""
        return None

    def report(self, played: Played) -> None:
        """Write down what it has cost, tell the policy what came of it, and look at the student if it is time."""
        steps = self.recipe.steps_per_round
        self.ledger.add(f"step/{played.pull.arm}", steps)
        if played.pull.chosen_by == pb.CHOSEN_BY_POLICY and self.bandit is not None:
            if self.method.learns:
                self.ledger.add(f"round/{JOINT if self.method.end_to_end else played.pull.arm}")
            told = pb.Measurement(steps=steps, seconds=steps * self.ledger.seconds[f"step/{played.pull.arm}"])
            told.outcome = pb.OUTCOME_MEASURED if math.isfinite(played.after) else pb.OUTCOME_DIVERGED
            if math.isfinite(played.after):
                told.before, told.after = played.before, played.after
            self.bandit.report(played.round, played.pull.arm, told)
        self.played.append(played.pull.arm)
        self._look()

    def _look(self) -> None:
        """At results and points of the curve that were passed in this round."""
        spent, last = self.ledger.spent, self.seen[-1][0] if self.seen else 0.0
        if any(last < share * self.budget <= spent for share in RESULTS):
            self.seen.append((spent, self.judge.look(LOOK)))
        elif int(spent * POINTS / self.budget) > int(last * POINTS / self.budget):
            self.seen.append((spent, self.judge.look(GLANCE)))


def rig_of(recipe: Recipe, ranks: Ranks) -> tuple[assemble.Models, Rig]:
    """Models and what trains them."""
    models = assemble.models(recipe)
    return models, assemble_rig(recipe, models, ranks)


def calibrated(cell: Cell, ranks: Ranks) -> Seconds:
    """CPU seconds of a step and of what is around a round, by arm; nothing that is measured here is kept."""
    recipe = cell.recipe()
    models, rig = rig_of(recipe, ranks)
    engine, planner = rig.engine, rig.planner
    probe = Probe(engine, ranks, planner, rig.objective, rig.teacher, rig.data, recipe.probe)
    batches = _batches(rig, recipe)
    work: dict[str, Callable[[], object]] = {}
    for arm, modules in {**models.arms, JOINT: []}.items():
        plan = planner.joint() if arm == JOINT else planner.arm(modules)

        def step(plan: Any = plan) -> None:
            engine.activate(plan.trained)
            for _ in range(STEPS_A_TURN):
                batch = engine.to_device(next(batches))
                engine.rehearse([(batch, rig.teacher.run(plan.teacher, batch))], plan)

        def around(plan: Any = plan) -> None:
            for _ in range(STEPS_A_TURN):
                RoundStart(engine, plan.trained)
                probe.measure(plan.trained)

        work |= {f"step/{arm}": step, f"round/{arm}": around}
    took: dict[str, list[float]] = {kind: [] for kind in work}
    for turn in range(TURNS + 1):
        for kind, do in work.items():
            started = time.process_time()
            do()
            if turn:
                took[kind].append((time.process_time() - started) / STEPS_A_TURN)
    return {kind: round(float(np.median(times)), 5) for kind, times in took.items()}


def run(cell: Cell, seconds: Seconds, ranks: Ranks) -> dict[str, Any]:
    """Distil, and what came of it: JSON values."""
    recipe = cell.recipe()
    models, rig = rig_of(recipe, ranks)
    made = EndToEnd if METHODS[cell.method].end_to_end else Probe
    probe = made(rig.engine, ranks, rig.planner, rig.objective, rig.teacher, rig.data, recipe.probe)
    with tempfile.TemporaryDirectory() as directory:
        checkpoints = Checkpoints(Path(directory), recipe.checkpoint, ranks, "run", "worker")
        trainer = Budgeted(
            recipe, models.arms, ranks, rig.engine, rig.teacher, rig.planner, probe, checkpoints, LoopState(),
            _batches(rig, recipe), 0.0,
        )  # fmt: skip
        judge = Judge(f"{cell.task}/{cell.student}", models, cast(TaskData, rig.data), rig.planner, rig.teacher)
        first = judge.look(GLANCE)
        started = time.process_time()
        trainer.spend(cell, seconds, judge)
    found = _told(trainer, first) | {
        "teacher": judge.teacher().score,
        "cpu_seconds": round(time.process_time() - started, 1),
    }
    del trainer, rig, probe, models
    gc.collect()
    return found


def _told(trainer: Budgeted, first: Judged) -> dict[str, Any]:
    letters = {arm: arm[0] for arm in trainer.played}
    rewards = trainer.bandit.rewards if trainer.bandit is not None else []
    curve = [(0.0, first), *trainer.seen]
    return {
        "curve": [[round(spent, 2), _short(at.mean_loss), round(at.score, 4)] for spent, at in curve],
        "results": [
            {"cost": round(spent, 2), "loss": [_short(loss) for loss in at.loss], "right": at.right, "items": at.items}
            for spent, at in trainer.seen
            if at.items == LOOK
        ],
        "arms": "".join(letters[arm] for arm in trainer.played),
        "rewards": [_short(reward, 3) for _, reward in rewards],
    }


def _short(value: float, digits: int = 4) -> float:
    return float(f"{value:.{digits}g}")


def _batches(rig: Rig, recipe: Recipe) -> Any:
    return training_batches(rig.data, batch_size=recipe.data.batch_size, rank=0, world=1, start=0, workers=0)
