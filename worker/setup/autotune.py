"""How long a round is and how much is measured around it, from what steps and measurements take on this machine.

Measuring the bandit loss shall cost no arm more than 5 % of what its round costs to train, and so shall the end-to-end
evaluation on average. What the recipe says stands; what it leaves open is chosen here, once, on coarse ladders: two
starts on one machine mostly agree, although no two timings do. The numbers then are the recipe's (recipe.yaml in the
output directory, which a resumed job reads), and the length of a round is part of the run's spec: of several workers
the first decides for all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from worker.data import Judged
from worker.data.loader import fixed_batch
from worker.distill.modular import Outputs
from worker.distill.plan import Plan
from worker.engine.process_group import Ranks
from worker.evaluation.generation import Writer
from worker.recipe.recipe import Recipe
from worker.setup.build import Rig
from worker.setup.dry_run import Proven

SHARE = 0.05
"""Of training time, for the probe and, beside it, for the evaluation."""
PROBES = (4, 2, 1)
"""Held-out batches a rank, the most that allow rounds of no more than `SHORT` steps."""
SHORT = 20
STEPS = tuple(first * 10**power for power in range(1, 6) for first in (1, 2, 5))
EVERY = (1, 2, 5, 10, 20, 50, 100)
REPEATS = 2


@dataclass(frozen=True)
class Times:
    """What was measured, in seconds.

    Attributes:
        steps: An optimizer step of each arm, joint among them.
        probes: In the same order, measuring one batch a rank after a round of that arm.
        evaluation: An end-to-end evaluation, without the probe's batches.
        evaluated: What each of the probe's batches adds to it.
    """

    steps: tuple[float, ...]
    probes: tuple[float, ...]
    evaluation: float
    evaluated: float


@dataclass(frozen=True)
class Pace:
    """Optimizer steps in a round, held-out batches of the probe, and rounds between evaluations."""

    steps_per_round: int
    probe_batches: int
    evaluate_every: int


def choose(recipe: Recipe, times: Times, ranks: int) -> Pace:
    """Fill in what the recipe leaves open."""
    # Steps that a round must have for each batch a rank that the probe has.
    a_batch = max(probe / step for probe, step in zip(times.probes, times.steps, strict=True)) / SHARE
    steps, batches = recipe.steps_per_round, recipe.probe.batches
    if batches:
        per_rank = -(-batches // ranks)
    else:
        per_rank = next((many for many in PROBES if many * a_batch <= (steps or SHORT)), PROBES[-1])
        batches = per_rank * ranks
    steps = steps or _rung(STEPS, per_rank * a_batch)
    mean_round = steps * sum(times.steps) / len(times.steps)
    evaluation = times.evaluation + per_rank * times.evaluated
    return Pace(steps, batches, recipe.probe.evaluate_every or _rung(EVERY, evaluation / (SHARE * mean_round)))


def measure(rig: Rig, recipe: Recipe, proven: Sequence[Proven], ranks: Ranks) -> Times:
    """Time measurements as the probe makes them; collective, though every rank has its own times."""
    engine, planner, teacher = rig.engine, rig.planner, rig.teacher
    batch = engine.to_device(fixed_batch(rig.data, rig.data.held_out, 0, recipe.probe.batch_size))
    seen = teacher.run(teacher.modules, batch)

    def seconds(plan: Plan) -> float:
        return _best(lambda: engine.measure(batch, seen, plan), engine.synchronize)

    def ask() -> None:
        # Unlike the probe's, these batches are made anew each time.
        rows = engine.to_device(fixed_batch(rig.data, rig.data.questions, 0, recipe.probe.batch_size))
        if isinstance(rig.data, Judged):
            Writer.student(engine, planner, ranks).write(rows, rig.data.writing, rig.data.pad_id)
        else:
            engine.measure(rows, Outputs({}, {}), planner.task())

    batches = -(-recipe.probe.questions // (recipe.probe.batch_size * ranks.world))
    return Times(
        steps=tuple(one.seconds for one in proven),
        probes=tuple(seconds(planner.measured(one.plan.trained)) for one in proven),
        evaluation=batches * _best(ask, engine.synchronize),
        evaluated=seconds(planner.joint()),
    )


def _best(work: Callable[[], object], synchronize: Callable[[], None]) -> float:
    """Seconds of the fastest of some repeats; if the first has start-up in it, it is another."""
    best = float("inf")
    for _ in range(REPEATS):
        synchronize()
        started = time.perf_counter()
        work()
        synchronize()
        best = min(best, time.perf_counter() - started)
    return best


def _rung(ladder: Sequence[int], least: float) -> int:
    """The lowest rung that is not below, or the highest."""
    return next((rung for rung in ladder if rung >= least), ladder[-1])
