"""One rank's job: assemble what the recipe names, join the run, train, export the student."""

from __future__ import annotations

import argparse
import os
import platform
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from protos.optima.v1 import bandit_pb2 as pb
from worker import assemble
from worker import recipe as recipes
from worker.assemble import Models
from worker.bandit_client import BanditClient
from worker.batches import training_batches
from worker.command_line import overrides
from worker.engine import Ranks
from worker.errors import WorkerError
from worker.export import export
from worker.journal import Journal
from worker.metrics import Record
from worker.probe import Evaluation, Probe
from worker.progress import Progress
from worker.proof_report import report
from worker.recipe import Recipe
from worker.rig import Rig, assemble_rig
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
    if arguments.dry_run:
        ranks = Ranks()
        rig = assemble_rig(recipe, models, ranks)
        proven = rig.proof.arms(repeats=3)
        if leads:
            print(report(models, proven), flush=True)
        ranks.close()
        return
    # Before anything slow: a server that is not there, or an output directory in use, should be told at once.
    with _first_rank(arguments, recipe, models) if leads else _other_rank() as (bandit, directory):
        ranks = Ranks()
        trainer = _trainer(recipe, models, ranks, assemble_rig(recipe, models, ranks))
        teacher_metrics = trainer.probe.teacher_metrics()
        start = trainer.probe.evaluate()
        first_round = 0
        if bandit is not None and directory is not None:
            first_round = bandit.start(_info(recipe, ranks, teacher_metrics, start.metrics)).next_round
            trainer.rank0 = Rank0(bandit, Record(directory), Progress(recipe.rounds, first_round))
            _greet(trainer.rank0, models, bandit.run, teacher_metrics, start.metrics)
        rounds = trainer.run(ranks.broadcast(first_round))
        end = trainer.probe.evaluate()
        weights = trainer.engine.state_dict()
        if trainer.rank0 is not None and bandit is not None and directory is not None:
            if arguments.run is None:
                bandit.finish()
            unsent = bandit.flush(timeout=arguments.bandit_patience)
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
    directory.mkdir(parents=True, exist_ok=True)
    worker = secrets.token_hex(8)
    (directory / "worker-id").write_text(worker + "\n", encoding="ascii")
    client = BanditClient(
        arguments.bandit_addr,
        run=name,
        worker=worker,
        spec=recipe.spec(models.arms),
        journal=Journal(directory / "bandit-journal.jsonl"),
        patience=arguments.bandit_patience,
        token=os.environ.get("OPTIMA_TOKEN"),
        allow_offline=arguments.allow_offline,
    )
    try:
        client.wait_ready()
        yield client, directory
    finally:
        client.close()


def _trainer(recipe: Recipe, models: Models, ranks: Ranks, rig: Rig) -> Trainer:
    """Prove that every arm trains what it says, then put together what plays the rounds."""
    rig.proof.arms(repeats=0)
    rig.engine.schedule.total_steps = recipe.rounds * recipe.steps_per_round
    probe = Probe(rig.engine, ranks, rig.planner, rig.objective, rig.teacher, rig.data, recipe.probe)
    batches = training_batches(
        rig.data,
        batch_size=recipe.data.batch_size,
        rank=ranks.rank,
        world=ranks.world,
        start=0,
        workers=recipe.data.workers,
    )
    return Trainer(recipe, models.arms, ranks, rig.engine, rig.teacher, rig.planner, probe, batches)


def _info(recipe: Recipe, ranks: Ranks, teacher: dict[str, float], student: dict[str, float]) -> pb.WorkerInfo:
    """What the worker tells of itself."""
    versions = {name: version(name) for name in ("torch", "deepspeed")}
    versions |= {"optima": version("optima-distill"), "python": platform.python_version()}
    return pb.WorkerInfo(
        ranks=ranks.world,
        device=ranks.device_kind,
        versions=versions,
        recipe=recipe.name,
        teacher_metrics=teacher,
        student_metrics=student,
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
