"""One rank's job: assemble what the recipe names, join the run, train, export the student."""

from __future__ import annotations

import math
import os
import platform
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from protos.optima.v1 import bandit_pb2 as pb
from worker.cli import Arguments, overrides
from worker.client.client import BanditClient
from worker.client.credentials import Credentials
from worker.data.loader import start_fork_server, training_batches
from worker.engine.process_group import Ranks
from worker.errors import Diverged, Interrupted
from worker.evaluation.probe import Evaluation, Probe
from worker.output_dir import OutputDir, read_saved_recipe
from worker.process import without_garbage_collection
from worker.recipe.recipe import BUILT_IN, Recipe, read_recipe
from worker.setup import autotune as pace
from worker.setup import models as assemble
from worker.setup.build import Rig, assemble_rig
from worker.setup.dry_run_report import report
from worker.setup.models import Models
from worker.training import rng as randomness
from worker.training import tracking
from worker.training.checkpoint import Checkpoints
from worker.training.loop_state import LoopState
from worker.training.metrics import Record
from worker.training.progress import Progress
from worker.training.trainer import Rank0, Trainer


def run(arguments: Arguments) -> None:
    """Do what the command line asks for, on this rank.

    Raises:
        WorkerError: With a sentence that says what is wrong.
    """
    started = time.monotonic()
    leads = int(os.environ.get("RANK", "0")) == 0
    if arguments.resume:
        recipe = read_saved_recipe(arguments.resume)
    else:
        recipe = read_recipe(arguments.recipe or BUILT_IN, overrides(arguments))
    if recipe.data.workers and not (arguments.list_modules or arguments.dry_run):
        start_fork_server()
    with without_garbage_collection():
        models = assemble.models(recipe)
    if arguments.list_modules:
        if leads:
            print(assemble.describe(models.student.model), flush=True)
        return
    if arguments.dry_run:
        ranks = Ranks()
        rig = assemble_rig(recipe, models, ranks)
        proven = rig.proof.arms(repeats=3)
        if leads:
            print(report(models, proven), flush=True)
        ranks.close()
        return
    # Before anything slow: a server that is not there, or an output directory in use, should be told at once.
    with _first_rank(arguments, recipe, models) if leads else _other_rank() as (bandit, place):
        ranks = Ranks()
        try:
            _distil(arguments, recipe, models, ranks, started, bandit, place)
        except (Interrupted, Diverged):
            # They come on all ranks alike.
            ranks.close()
            raise
        ranks.close()


def _distil(
    arguments: Arguments,
    recipe: Recipe,
    models: Models,
    ranks: Ranks,
    started: float,
    bandit: BanditClient | None,
    place: OutputDir | None,
) -> None:
    """Train from where the job stands to its end, and export the student."""
    rig = assemble_rig(recipe, models, ranks)
    proven = recipe.open
    if recipe.open:
        recipe = _paced(recipe, models, ranks, rig, bandit)
        if place is not None:
            place.save_recipe(recipe)
    trainer = _trainer(recipe, models, ranks, rig, started, place, proven=proven)
    state = trainer.state
    if state.start is None:
        state.teacher_metrics = trainer.probe.teacher_metrics()
        state.start = trainer.probe.evaluate()
    if bandit is not None and place is not None:
        bandit.start(_info(recipe, ranks, state.teacher_metrics, state.start))
        record = Record(place.directory, state.round)
        trackers = tracking.start(recipe.tracking, place.directory, bandit.run)
        trainer.rank0 = Rank0(bandit, record, Progress(recipe.rounds, state.round), trackers)
        _greet(trainer.rank0, models, bandit.run, state, resumed=arguments.resume is not None)
    try:
        trainer.run()
    finally:
        for tracker in trainer.rank0.trackers if trainer.rank0 else ():
            tracker.close()
    end = trainer.probe.evaluate()
    weights = trainer.engine.state_dict()
    if trainer.rank0 is not None and bandit is not None and place is not None:
        if not place.joined:
            bandit.finish()
        unsent = bandit.flush()
        trainer.rank0.progress.close()
        student = models.exported.export(weights, place.directory)
        summary = _summary(recipe, state.teacher_metrics, state.start, end)
        trainer.rank0.record.summarise(
            summary
            | {
                "run": bandit.run,
                "rounds": state.round,
                "seconds": round(time.monotonic() - trainer.began, 3),
                "load_seconds": round(models.load_seconds, 3),
                "unsent_reports": unsent,
                "student": student.name,
            }
        )
        print(f"student {_shown(end.metrics)}; written to {place.directory}", flush=True)


@contextmanager
def _other_rank() -> Iterator[tuple[None, None]]:
    yield None, None


@contextmanager
def _first_rank(arguments: Arguments, recipe: Recipe, models: Models) -> Iterator[tuple[BanditClient, OutputDir]]:
    """The client, not yet joined, and the output directory: new, or that of the worker to go on with."""
    if arguments.resume:
        place = OutputDir.reopen(arguments.resume)
    else:
        name = arguments.run or f"{recipe.name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        directory = arguments.output_dir or Path("runs") / name
        place = OutputDir.create_new(directory, name, recipe, joined=arguments.run is not None)
    client = BanditClient(
        arguments.bandit_addr,
        run=place.run,
        worker=place.worker,
        spec=recipe.spec(models.arms),
        journal=place.journal,
        patience=arguments.bandit_patience,
        credentials=Credentials.from_environment(),
        allow_offline=arguments.allow_offline,
    )
    try:
        client.wait_ready()
        yield client, place
    finally:
        client.close()
        place.remove_unused()


def _paced(recipe: Recipe, models: Models, ranks: Ranks, rig: Rig, bandit: BanditClient | None) -> Recipe:
    """The recipe with what it leaves open chosen from measured times: the same on every rank, and the run's if there
    is one. Proves every arm on the way."""
    times = pace.measure(rig, recipe, rig.proof.arms(repeats=pace.REPEATS), ranks)
    chosen = None if bandit is None else _settled(recipe, models, ranks, times, bandit)
    return recipe.fixed(**asdict(ranks.broadcast(chosen)))


def _settled(recipe: Recipe, models: Models, ranks: Ranks, times: pace.Times, bandit: BanditClient) -> pace.Pace:
    """What to choose, with the length of the run's rounds; another worker may have decided on that meanwhile."""
    steps = recipe.steps_per_round or bandit.spec.steps_per_round
    while True:
        chosen = pace.choose(recipe.model_copy(update={"steps_per_round": steps}), times, ranks.world)
        steps = chosen.steps_per_round
        if not recipe.steps_per_round:
            steps = bandit.settle(recipe.fixed(**asdict(chosen)).spec(models.arms))
        if steps == chosen.steps_per_round:
            return chosen


def _trainer(
    recipe: Recipe, models: Models, ranks: Ranks, rig: Rig, started: float, place: OutputDir | None, *, proven: bool
) -> Trainer:
    """What plays the rounds, as its checkpoint left it if there is one, once every arm is proven."""
    engine = rig.engine
    engine.schedule.total_steps = recipe.rounds * recipe.steps_per_round
    found, directory, run, worker = ranks.broadcast(
        place and (place.checkpoint, place.checkpoints, place.run, place.worker)
    )
    checkpoints = Checkpoints(directory, recipe.checkpoint, ranks, run, worker)
    state = checkpoints.load(engine, found[0], found[1].ranks) if found else LoopState()
    if not (found or proven):
        rig.proof.arms(repeats=0)
    probe = Probe(engine, ranks, rig.planner, rig.objective, rig.teacher, rig.data, recipe.probe)
    batches = training_batches(
        rig.data,
        batch_size=recipe.data.batch_size,
        rank=ranks.rank,
        world=ranks.world,
        start=state.position,
        workers=recipe.data.workers,
        cursors=state.cursors,
        prefetch=recipe.data.prefetch,
    )
    if found:
        # Last: building all this has drawn random numbers.
        randomness.restore(state.random)
    began = started - state.elapsed
    return Trainer(
        recipe, models.arms, ranks, engine, rig.teacher, rig.planner, probe, checkpoints, state, batches, began
    )


def _info(recipe: Recipe, ranks: Ranks, teacher: dict[str, float], start: Evaluation) -> pb.WorkerInfo:
    """What the worker tells of itself."""
    versions = {name: version(name) for name in ("torch", "deepspeed")}
    versions |= {"optima": version("optima-distill"), "python": platform.python_version()}
    return pb.WorkerInfo(
        ranks=ranks.world,
        device=ranks.device_kind,
        versions=versions,
        recipe=recipe.name,
        teacher_metrics=teacher,
        student_metrics=start.metrics,
        total_loss=start.total_loss if math.isfinite(start.total_loss) else None,
    )


def _greet(rank0: Rank0, models: Models, run: str, state: LoopState, *, resumed: bool) -> None:
    start = state.start.metrics if state.start else {}
    rank0.progress.say(f"run {run}: teacher {_shown(state.teacher_metrics)}; student at its start {_shown(start)}")
    rank0.progress.say(f"weights: the teacher's {models.teacher_weights}; the student's {models.exported.weights}")
    if resumed:
        step = f", step {state.step}" if state.step else ""
        rank0.progress.say(f"goes on with round {state.round}{step}")
    unowned = models.ownership.unowned
    if unowned:
        rank0.progress.say(f"belongs to no module, and stays as it is: {', '.join(unowned)}")


def _summary(recipe: Recipe, teacher: dict[str, float], start: Evaluation, end: Evaluation) -> dict[str, object]:
    """What came of the job, for summary.json."""
    return {
        "recipe": recipe.name,
        "policy": recipe.policy.name,
        "train": recipe.train,
        "teacher_accuracy": teacher.get("accuracy"),
        "student_accuracy_start": start.metrics.get("accuracy"),
        "student_accuracy_end": end.metrics.get("accuracy"),
        "loss_start": start.total_loss,
        "loss_end": end.total_loss,
        "teacher_metrics": teacher,
        "metrics_start": start.metrics,
        "metrics_end": end.metrics,
    }


def _shown(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1%}" for name, value in metrics.items() if "/" not in name)
