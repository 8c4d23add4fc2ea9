"""One rank's job: assemble what the recipe names, join the run, train, export the student."""

from __future__ import annotations

import argparse
import math
import os
import platform
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

import torch

from protos.optima.v1 import bandit_pb2 as pb
from worker import assemble
from worker import recipe as recipes
from worker.assemble import Models
from worker.bandit_client import BanditClient
from worker.batches import training_batches
from worker.command_line import overrides
from worker.engine import Engine, Ranks
from worker.errors import WorkerError
from worker.export import export
from worker.journal import Journal
from worker.metrics import Record
from worker.objective import Objective
from worker.plan import Planner
from worker.probe import Evaluation, Probe
from worker.progress import Progress
from worker.recipe import Recipe
from worker.student import Student
from worker.teacher import Teacher
from worker.trainer import Rank0, Trainer


def run(arguments: argparse.Namespace) -> None:
    """Do what the command line asks for, on this rank.

    Raises:
        WorkerError: With a sentence that says what is wrong.
    """
    started = time.monotonic()
    leads = int(os.environ.get("RANK", "0")) == 0
    recipe = recipes.read(arguments.recipe or recipes.BUILT_IN, overrides(arguments))
    models = assemble.models(recipe)
    if arguments.list_modules:
        if leads:
            print(assemble.describe(models.student.model), flush=True)
        return
    # Before anything slow: a server that is not there, or an output directory in use, should be told at once.
    with _first_rank(arguments, recipe, models) if leads else _other_rank() as (bandit, directory):
        ranks = Ranks()
        trainer = _trainer(recipe, models, ranks)
        teacher_metrics = trainer.probe.teacher_metrics()
        start = trainer.probe.evaluate()
        first_round = 0
        if bandit is not None and directory is not None:
            first_round = bandit.start(_info(recipe, ranks, teacher_metrics, start)).next_round
            trainer.rank0 = Rank0(bandit, Record(directory), Progress(recipe.rounds, first_round))
            _greet(trainer.rank0, models, bandit.run, teacher_metrics, start.metrics)
        rounds = trainer.run(ranks.broadcast(first_round))
        end = trainer.probe.evaluate()
        weights = trainer.engine.state_dict()
        if trainer.rank0 is not None and bandit is not None and directory is not None:
            if arguments.run is None:
                bandit.finish()
            unsent = bandit.flush()
            trainer.rank0.progress.close()
            student = export(weights, models.student_config, directory)
            summary = _summary(recipe, teacher_metrics, start, end)
            trainer.rank0.record.summarise(
                summary
                | {
                    "run": bandit.run,
                    "rounds": rounds,
                    "seconds": round(time.monotonic() - started, 3),
                    "unsent_reports": unsent,
                    "student": student.name,
                }
            )
            print(f"student {_shown(end.metrics)}; written to {directory}", flush=True)
        ranks.close()


@contextmanager
def _other_rank() -> Iterator[tuple[None, None]]:
    yield None, None


@contextmanager
def _first_rank(arguments: argparse.Namespace, recipe: Recipe, models: Models) -> Iterator[tuple[BanditClient, Path]]:
    """The client, not yet joined, and the output directory, new."""
    name = arguments.run or f"{recipe.name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    directory = arguments.output_dir or Path("runs") / name
    if (directory / "bandit-journal.jsonl").exists():
        raise WorkerError(f"{directory} already holds a worker's output; choose another --output-dir")
    worker = secrets.token_hex(8)
    identity = directory / "worker-id"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        identity.write_text(worker + "\n", encoding="ascii")
    except OSError as error:
        raise WorkerError(f"--output-dir {directory} cannot be written to: {error.strerror}") from error
    journal = Journal(directory / "bandit-journal.jsonl")
    client = BanditClient(
        arguments.bandit_addr,
        run=name,
        worker=worker,
        spec=recipe.spec(models.arms),
        journal=journal,
        patience=arguments.bandit_patience,
        token=os.environ.get("OPTIMA_TOKEN"),
        allow_offline=arguments.allow_offline,
    )
    try:
        client.wait_ready()
        yield client, directory
    finally:
        client.close()
        if journal.bare:
            # Nothing came of it, so whoever mends the address or the recipe may use the directory again.
            journal.path.unlink()
            identity.unlink()
            with suppress(OSError):
                directory.rmdir()


def _trainer(recipe: Recipe, models: Models, ranks: Ranks) -> Trainer:
    """Everything that trains, on this rank."""
    torch.manual_seed(recipe.seed)
    data = assemble.data(recipe)
    planner = Planner(models.adapter.parts, models.adapter.logits[0], recipe.train)
    objective = Objective(models.adapter, models.pairs, recipe.loss)
    engine = Engine(
        Student(models.student, objective),
        models.ownership.owned,
        recipe.optimizer,
        recipe.deepspeed,
        micro_batch=recipe.data.batch_size,
        total_steps=recipe.rounds * recipe.steps_per_round,
    )
    teacher = Teacher(models.teacher, ranks.device, engine.dtype)
    probe = Probe(engine, ranks, planner, objective, teacher, data, recipe.probe, forced=recipe.train == "forced")
    batches = training_batches(
        data,
        batch_size=recipe.data.batch_size,
        rank=ranks.rank,
        world=ranks.world,
        start=0,
        workers=recipe.data.workers,
    )
    return Trainer(recipe, models.arms, ranks, engine, teacher, planner, probe, batches)


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


def _greet(rank0: Rank0, models: Models, run: str, teacher: dict[str, float], student: dict[str, float]) -> None:
    rank0.progress.say(f"run {run}: teacher {_shown(teacher)}; student at its start {_shown(student)}")
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
