"""One run of the study, in this process: the worker's own trainer, engine and data, and the server's own rules.

The study adds a budget to the worker: the job's end, its tail and its learning rate follow calibrated seconds instead
of rounds, because rounds of different arms cost differently.
"""

from __future__ import annotations

import gc
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np

from benchmarks.quality.grid import METHODS, Cell, Method
from benchmarks.quality.judge import GLANCE, LOOK, Judge
from benchmarks.quality.local_bandit import LocalRun, Shares
from benchmarks.quality.tasks import TaskData
from protos.optima.v1 import bandit_pb2 as pb
from worker.client.journal import Pull
from worker.distill.arms import JOINT
from worker.distill.plan import Plan, Planner
from worker.engine.optimizer import Schedule
from worker.engine.process_group import ProcessGroup
from worker.evaluation.probe import Probe
from worker.recipe.recipe import Recipe
from worker.setup.build import Components, build
from worker.setup.models import load_models
from worker.training.chooser import Chooser
from worker.training.metrics import RoundRecord
from worker.training.rollback import Rollback
from worker.training.trainer import Trainer

RESULTS = (0.25, 0.5, 1.0)
"""Shares of the budget at which a run is judged on many items."""
POINTS = 12
"""Points of a curve, at equal distances in cost."""
TURNS, STEPS_PER_TURN = 9, 2
"""Of a calibration: the kinds of work take turns, so that other load on the machine affects all alike."""

Seconds = dict[str, float]


@dataclass
class Ledger:
    """The cost of a run: counts of each kind of work, times its calibrated seconds.

    The clock of the run itself decides nothing, so that a noisy machine does not either.

    Attributes:
        seconds: Seconds of one piece of work by its kind, such as ``step/image`` or ``round/image``, measured once.
        counts: Pieces of work so far.
    """

    seconds: Mapping[str, float]
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, count: int = 1) -> None:
        """Count pieces of work; raise KeyError if that kind was not calibrated."""
        if kind not in self.seconds:
            raise KeyError(f"the cost of {kind!r} was not measured; measured are {', '.join(sorted(self.seconds))}")
        self.counts[kind] += count

    @property
    def spent(self) -> float:
        """Calibrated seconds so far."""
        return sum(self.seconds[kind] * count for kind, count in self.counts.items())


class BudgetChooser:
    """Chooses arms until the budget is spent: those of the method, then joint in the tail.

    Args:
        cell: The run.
        ledger: The run's cost; reports add to it.
        arms: Chooses the arms before the tail; None for joint rounds throughout.
        schedule: The engine's learning rates, which decay over the budget.
    """

    def __init__(self, cell: Cell, ledger: Ledger, arms: Chooser | None, schedule: Schedule) -> None:
        self._method, self._budget = METHODS[cell.method], cell.budget
        self._ledger, self._arms, self._schedule = ledger, arms, schedule

    def select(self, round: int) -> Pull | None:
        """Return the arm of a round; None once the budget is spent."""
        if self._ledger.spent >= self._budget:
            return None
        self._schedule.total_steps = self._total_steps()
        if self._arms is None or self._ledger.spent >= (1 - self._method.tail) * self._budget:
            return Pull(JOINT, None, pb.CHOSEN_BY_TAIL)
        return self._arms.select(round)

    def report(self, pull: Pull, record: RoundRecord, *, last: bool) -> float | None:
        """Add the round's cost, and report it to the method's chooser with calibrated seconds."""
        self._ledger.add(f"step/{pull.arm}", record.steps)
        if self._arms is None or pull.chosen_by != pb.CHOSEN_BY_POLICY:
            return None
        if self._method.learns:
            self._ledger.add(f"round/{JOINT if self._method.end_to_end else pull.arm}")
        seconds = record.steps * self._ledger.seconds[f"step/{pull.arm}"]
        return self._arms.report(pull, replace(record, seconds=seconds), last=last)

    def _total_steps(self) -> int:
        """Return the steps of the whole run, if the rest of the budget buys them at the cost of those so far."""
        done = self._ledger.spent / self._budget
        if not done:
            return round(self._budget / self._ledger.seconds[f"step/{JOINT}"])
        return round(self._schedule.step / done)


class Curve:
    """A sink that records the arms and rewards of a run, and judges the student at points of its cost.

    Args:
        judge: Judges the student; outside the job, so that it costs the job nothing.
        ledger: The run's cost.
        budget: The run's budget.

    Attributes:
        arms: The arms of all rounds.
        rewards: The rewards of the rounds that have one.
        judgements: Cost and judgement of each point.
    """

    def __init__(self, judge: Judge, ledger: Ledger, budget: float) -> None:
        self._judge, self._ledger, self._budget = judge, ledger, budget
        self.arms: list[str] = []
        self.rewards: list[float] = []
        self.judgements = [(0.0, judge.look(GLANCE))]

    def add(self, record: RoundRecord) -> None:
        """Record one round; judge the student if the round has reached a result or a point of the curve."""
        self.arms.append(record.arm)
        if record.reward is not None:
            self.rewards.append(record.reward)
        spent, last = self._ledger.spent, self.judgements[-1][0]
        if any(last < share * self._budget <= spent for share in RESULTS):
            self.judgements.append((spent, self._judge.look(LOOK)))
        elif int(spent * POINTS / self._budget) > int(last * POINTS / self._budget):
            self.judgements.append((spent, self._judge.look(GLANCE)))

    def close(self) -> None:
        """Do nothing: all is recorded."""

    def results(self) -> dict[str, Any]:
        """Return the run's record, as JSON values."""
        letters = {arm: arm[0] for arm in self.arms}
        return {
            "curve": [[round(spent, 2), _short(at.mean_loss), round(at.score, 4)] for spent, at in self.judgements],
            "results": [
                {
                    "cost": round(spent, 2),
                    "loss": [_short(loss) for loss in at.loss],
                    "right": at.right,
                    "items": at.items,
                }
                for spent, at in self.judgements
                if at.items == LOOK
            ],
            "arms": "".join(letters[arm] for arm in self.arms),
            "rewards": [_short(reward, 3) for reward in self.rewards],
        }


def single_rank() -> ProcessGroup:
    """Return the process group of this process as the only rank."""
    where = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    os.environ.update({name: value for name, value in where.items() if name not in os.environ})
    return ProcessGroup()


def calibrated(cell: Cell, process_group: ProcessGroup) -> Seconds:
    """Measure CPU seconds of a step and of the work around a round, by arm: ``step/ARM`` and ``round/ARM``."""
    recipe = cell.recipe()
    components = build(recipe, load_models(recipe), process_group)
    engine, teacher, probe = components.engine, components.teacher, components.probe(recipe.probe)
    batches = components.batches(recipe.data)
    work: dict[str, Callable[[], object]] = {}
    for arm in (*components.models.arms, JOINT):
        plan = components.plan(arm)

        def step(plan: Plan = plan) -> None:
            engine.activate(plan.trained)
            for _ in range(STEPS_PER_TURN):
                batch = engine.to_device(next(batches))
                engine.rehearse([(batch, teacher.run(plan.teacher, batch))], plan)

        def around(plan: Plan = plan) -> None:
            for _ in range(STEPS_PER_TURN):
                Rollback(engine, plan.trained)
                probe.measure(plan.trained)

        work |= {f"step/{arm}": step, f"round/{arm}": around}
    seconds: dict[str, list[float]] = {kind: [] for kind in work}
    for turn in range(TURNS + 1):
        for kind, function in work.items():
            started = time.process_time()
            function()
            if turn:
                seconds[kind].append((time.process_time() - started) / STEPS_PER_TURN)
    return {kind: round(float(np.median(times)), 5) for kind, times in seconds.items()}


def run(cell: Cell, seconds: Seconds, process_group: ProcessGroup) -> dict[str, Any]:
    """Distil a student and return the run's record, as JSON values.

    Args:
        cell: The run.
        seconds: Calibrated seconds by kind of work.
        process_group: This process as the only rank.
    """
    recipe, method = cell.recipe(), METHODS[cell.method]
    components = build(recipe, load_models(recipe), process_group)
    probe = _probe(components, recipe, method)
    batches = components.batches(recipe.data)
    models, data = components.models, cast(TaskData, components.data)
    judge = Judge(f"{cell.task}/{cell.student}", models, data, components.planner, components.teacher)
    ledger = Ledger(seconds)
    curve = Curve(judge, ledger, cell.budget)
    chooser = BudgetChooser(cell, ledger, _arms(recipe, method, models.arms), components.engine.schedule)
    started = time.process_time()
    Trainer(recipe, components, probe, batches, chooser=chooser, sinks=[curve]).run()
    record = curve.results() | {
        "teacher": judge.teacher().score,
        "cpu_seconds": round(time.process_time() - started, 1),
    }
    del components, probe, batches, models, data, judge, curve, chooser
    gc.collect()
    return record


def _probe(components: Components, recipe: Recipe, method: Method) -> Probe:
    """Return the method's probe; under `end_to_end` it measures the whole loss, whatever a round trains."""
    if method.end_to_end:
        specs = components.models.adapter.modules
        logits_module = components.models.adapter.logits[0] if components.models.adapter.logits else None
        components = replace(components, planner=Planner(specs, logits_module, "active"))
    return components.probe(recipe.probe)


def _arms(recipe: Recipe, method: Method, arms: Mapping[str, list[str]]) -> Chooser | None:
    """Return the chooser of the rounds before the tail; None for joint rounds throughout."""
    if method.shares:
        return Shares(dict(zip(arms, method.shares, strict=True)))
    if not method.policy:
        return None
    spec = recipe.spec(dict(arms))
    if method.absolute:
        spec.reward = pb.REWARD_KIND_ABSOLUTE
    return LocalRun(spec)


def _short(value: float, digits: int = 4) -> float:
    return float(f"{value:.{digits}g}")
