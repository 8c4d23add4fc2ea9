"""Autotuning: the length of a round and how much is measured around it, chosen from measured times.

Measuring the bandit loss should cost no arm more than 5 % of the training time of its round, and so should the
end-to-end evaluation on average. Numbers that the recipe gives are kept; those it leaves open are chosen once, from
coarse ladders, so that two starts on one machine mostly agree although no two timings do. From then on they are the
recipe's numbers (in the output directory's recipe.yaml, which a resumed job reads). The length of a round is part of
the run's spec: of several workers, the first one decides for all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from worker.client.client import BanditClient
from worker.data import Judged
from worker.data.loader import fixed_batch
from worker.distill.modular import Outputs
from worker.distill.plan import Plan
from worker.evaluation.generation import Generator
from worker.recipe.recipe import Recipe
from worker.setup.build import Components
from worker.setup.dry_run import ArmCheck

SHARE = 0.05
"""Share of training time that the probe may take, and that evaluations may take beside it."""
PROBES = (4, 2, 1)
"""Held-out batches of each rank: the most are taken that allow rounds of at most `SHORT` steps."""
SHORT = 20
STEPS = tuple(first * 10**power for power in range(1, 6) for first in (1, 2, 5))
EVERY = (1, 2, 5, 10, 20, 50, 100)
REPEATS = 2
"""Repeats of each measurement; the fastest counts."""


@dataclass(frozen=True)
class Timings:
    """Measured times, in seconds.

    Attributes:
        steps: An optimizer step of each arm, joint included.
        probes: For the same arms, measuring one batch per rank after a round of that arm.
        evaluation: An end-to-end evaluation, without the probe's batches.
        evaluation_batch: What each of the probe's batches adds to an evaluation.
    """

    steps: tuple[float, ...]
    probes: tuple[float, ...]
    evaluation: float
    evaluation_batch: float


@dataclass(frozen=True)
class RoundSettings:
    """The numbers that a recipe may leave open.

    Attributes:
        steps_per_round: Optimizer steps in a round.
        probe_batches: Held-out batches of the probe, over all ranks.
        evaluate_every: Rounds between two evaluations.
    """

    steps_per_round: int
    probe_batches: int
    evaluate_every: int


def autotune(recipe: Recipe, components: Components, client: BanditClient | None) -> Recipe:
    """Return the recipe with the numbers that it leaves open; collective.

    Every arm is checked on the way, as by `DryRun.check_arms`.

    Args:
        recipe: The recipe, with open numbers.
        components: This rank's components.
        client: The bandit client, before it has joined the run; on rank 0 only.

    Raises:
        RecipeError: An arm would not train what it should.
        BanditRefused: The run has another spec or was deleted, or the token is wrong.
    """
    timings = measure(recipe, components, components.dry_run.check_arms(repeats=REPEATS))
    settings = None if client is None else _agree(recipe, components, timings, client)
    return recipe.fixed(**asdict(components.process_group.broadcast(settings)))


def _agree(recipe: Recipe, components: Components, timings: Timings, client: BanditClient) -> RoundSettings:
    """Choose the settings, with the steps per round of the run: another worker may decide on them at the same time."""
    steps = recipe.steps_per_round or client.spec.steps_per_round
    while True:
        fixed_length = recipe.model_copy(update={"steps_per_round": steps})
        settings = choose(fixed_length, timings, components.process_group.world_size)
        steps = settings.steps_per_round
        if not recipe.steps_per_round:
            steps = client.settle(recipe.fixed(**asdict(settings)).spec(components.models.arms))
        if steps == settings.steps_per_round:
            return settings


def choose(recipe: Recipe, timings: Timings, ranks: int) -> RoundSettings:
    """Return the recipe's numbers, and choose those that it leaves open."""
    # Steps that a round needs for each batch per rank of the probe.
    steps_per_batch = max(probe / step for probe, step in zip(timings.probes, timings.steps, strict=True)) / SHARE
    steps, batches = recipe.steps_per_round, recipe.probe.batches
    if batches:
        per_rank = -(-batches // ranks)
    else:
        per_rank = next((count for count in PROBES if count * steps_per_batch <= (steps or SHORT)), PROBES[-1])
        batches = per_rank * ranks
    steps = steps or _round_up(per_rank * steps_per_batch, STEPS)
    mean_round = steps * sum(timings.steps) / len(timings.steps)
    evaluation = timings.evaluation + per_rank * timings.evaluation_batch
    every = recipe.probe.evaluate_every or _round_up(evaluation / (SHARE * mean_round), EVERY)
    return RoundSettings(steps, batches, every)


def measure(recipe: Recipe, components: Components, checks: Sequence[ArmCheck]) -> Timings:
    """Time measurements as the probe takes them; collective, but every rank has its own times.

    Args:
        recipe: The recipe.
        components: This rank's components.
        checks: The dry run's results for all arms, joint included.
    """
    data, engine, planner, teacher = components.data, components.engine, components.planner, components.teacher
    batch = engine.to_device(fixed_batch(data, data.held_out, 0, recipe.probe.batch_size))
    outputs = teacher.run(teacher.modules, batch)

    def seconds(plan: Plan) -> float:
        return _fastest(lambda: engine.measure(batch, outputs, plan), engine.synchronize)

    def evaluate_batch() -> None:
        # Unlike the probe's batches, those of an evaluation are read anew each time.
        questions = engine.to_device(fixed_batch(data, data.questions, 0, recipe.probe.batch_size))
        if isinstance(data, Judged):
            generator = Generator.for_student(engine, planner, components.process_group)
            generator.generate(questions, data.writing, data.pad_id)
        else:
            engine.measure(questions, Outputs({}, {}), planner.task())

    batches = -(-recipe.probe.questions // (recipe.probe.batch_size * components.process_group.world_size))
    return Timings(
        steps=tuple(check.seconds for check in checks),
        probes=tuple(seconds(planner.measured(check.plan.trained)) for check in checks),
        evaluation=batches * _fastest(evaluate_batch, engine.synchronize),
        evaluation_batch=seconds(planner.joint()),
    )


def _fastest(work: Callable[[], object], synchronize: Callable[[], None]) -> float:
    """Return the seconds of the fastest repeat: the first may include start-up work."""
    fastest = float("inf")
    for _ in range(REPEATS):
        synchronize()
        started = time.perf_counter()
        work()
        synchronize()
        fastest = min(fastest, time.perf_counter() - started)
    return fastest


def _round_up(least: float, ladder: Sequence[int]) -> int:
    """Return the lowest number of the ladder that is not below ``least``, or its highest."""
    return next((number for number in ladder if number >= least), ladder[-1])
