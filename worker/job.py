"""One rank's job: load the models, build the components, join the run, train, and export the student."""

from __future__ import annotations

import math
import os
import platform
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from protos.optima.v1 import bandit_pb2 as pb
from worker.cli import Arguments, overrides
from worker.client.client import BanditClient
from worker.client.credentials import Credentials
from worker.data.loader import start_fork_server
from worker.engine.process_group import ProcessGroup
from worker.errors import Diverged, Interrupted, RecipeError
from worker.evaluation.probe import Evaluation
from worker.models import sources
from worker.output_dir import OutputDir, read_saved_recipe
from worker.process import without_garbage_collection
from worker.recipe.recipe import BUILT_IN, Recipe, read_recipe, read_teacher
from worker.setup.autotune import autotune
from worker.setup.build import build
from worker.setup.dry_run import report
from worker.setup.listing import Listed, list_modules, modules_block
from worker.setup.models import Models, load_models
from worker.training import rng
from worker.training.checkpoint import Checkpoints
from worker.training.chooser import Chooser, ServerChooser
from worker.training.loop_state import LoopState
from worker.training.metrics import Metrics, Sink
from worker.training.progress import Progress
from worker.training.tracking import start_trackers
from worker.training.trainer import Trainer


def run(arguments: Arguments) -> None:
    """Do what the command line asks for, on this rank.

    Raises:
        WorkerError: The job cannot start or continue; the message says why.
    """
    started = time.monotonic()
    is_rank0 = int(os.environ.get("RANK", "0")) == 0
    if arguments.list_modules is not None:
        if is_rank0:
            print(_listing(arguments), flush=True)
        return
    recipe = _read_recipe(arguments)
    if recipe.data.workers and not arguments.dry_run:
        start_fork_server()
    with without_garbage_collection():
        models = load_models(recipe)
    if arguments.dry_run:
        process_group = ProcessGroup()
        checks = build(recipe, models, process_group).dry_run.check_arms(repeats=3)
        if is_rank0:
            print(report(models, checks), flush=True)
        process_group.close()
        return
    # Before anything slow: if there is no server, or the output directory is in use, the user should hear it at once.
    with _client_and_output(arguments, recipe, models) if is_rank0 else _neither() as (client, output):
        process_group = ProcessGroup()
        try:
            _distil(arguments, recipe, models, process_group, started, client, output)
        except (Interrupted, Diverged):
            # All ranks raise these together; after any other error the others may be anywhere, and closing would hang.
            process_group.close()
            raise
        process_group.close()


def _read_recipe(arguments: Arguments) -> Recipe:
    if arguments.resume:
        return read_saved_recipe(arguments.resume)
    return read_recipe(arguments.recipe or BUILT_IN, overrides(arguments))


def _listing(arguments: Arguments) -> str:
    """Return what ``--list-modules`` prints. Nothing but the teacher has to be valid in the recipe."""
    if arguments.list_modules:
        model = _listed(arguments.list_modules, {}, Path())
        return f"{list_modules(model.model)}\n\n{modules_block(model)}"
    try:
        recipe = _read_recipe(arguments)
        student = load_models(recipe).student.model
    except RecipeError as error:
        if arguments.resume:
            raise
        path = arguments.recipe or BUILT_IN
        section = read_teacher(path, overrides(arguments))
        teacher = _listed(section.model, section.options, path.resolve().parent)
        note = f"# the teacher's modules; the rest of the recipe was not checked ({' '.join(str(error).split())})"
        return f"{note}\n{list_modules(teacher.model)}\n\n{modules_block(teacher)}"
    teacher = _listed(recipe.teacher.model, recipe.teacher.options, recipe.directory)
    other = recipe.student.model and _listed(recipe.student.model, recipe.student.options, recipe.directory)
    return f"{list_modules(student)}\n\n{modules_block(teacher, other or None)}"


def _listed(model: str, options: Mapping[str, Any], directory: Path) -> Listed:
    outlined = sources.outline(model, options=options, directory=directory)
    return Listed(outlined.model, outlined.adapter)


@contextmanager
def _client_and_output(
    arguments: Arguments, recipe: Recipe, models: Models
) -> Iterator[tuple[BanditClient, OutputDir]]:
    """Open the output directory, new or of a resumed worker, and a client that has not joined the run yet."""
    # First: a wrong token or certificate must not leave a new directory behind.
    credentials = Credentials.from_environment()
    if arguments.resume:
        output = OutputDir.reopen(arguments.resume)
    else:
        name = arguments.run or f"{recipe.name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        directory = arguments.output_dir or Path("runs") / name
        output = OutputDir.create_new(directory, name, recipe, joined=arguments.run is not None)
    with ExitStack() as cleanup:
        cleanup.callback(output.remove_unused)
        cleanup.callback(output.journal.close)
        client = BanditClient(
            arguments.bandit_addr,
            run=output.run,
            worker=output.worker,
            spec=recipe.spec(models.arms),
            journal=output.journal,
            patience=arguments.bandit_patience,
            credentials=credentials,
            allow_offline=arguments.allow_offline,
        )
        cleanup.callback(client.close)
        client.wait_ready()
        yield client, output


@contextmanager
def _neither() -> Iterator[tuple[None, None]]:
    yield None, None


def _distil(
    arguments: Arguments,
    recipe: Recipe,
    models: Models,
    process_group: ProcessGroup,
    started: float,
    client: BanditClient | None,
    output: OutputDir | None,
) -> None:
    """Train from the job's state to its end, and export the student; collective."""
    components = build(recipe, models, process_group)
    needs_check = not recipe.open
    if recipe.open:
        recipe = autotune(recipe, components, client)
        if output is not None:
            output.save_recipe(recipe)
    last_checkpoint, directory, run_name, worker = process_group.broadcast(
        output and (output.checkpoint, output.checkpoints, output.run, output.worker)
    )
    checkpoints = Checkpoints(directory, recipe.checkpoint, process_group, run_name, worker)
    if last_checkpoint:
        name, mark = last_checkpoint
        state = checkpoints.load(components.engine, name, mark.ranks)
    else:
        state = LoopState()
        if needs_check:
            components.dry_run.check_arms(repeats=0)
    probe = components.probe(recipe.probe)
    batches = components.batches(recipe.data, state.position, state.cursors)
    if last_checkpoint:
        # Last: building all this has drawn random numbers.
        rng.restore(state.random)
    if state.start is None:
        state.teacher_metrics = probe.teacher_metrics()
        state.start = probe.evaluate()
    chooser: Chooser | None = None
    sinks: list[Sink] = []
    if client is not None and output is not None:
        # From here on this process has a gRPC connection, so nothing may fork: loader processes have been started.
        client.start(_worker_info(recipe, process_group, state))
        chooser = ServerChooser(client, recipe)
        metrics, progress = Metrics(output.directory, state.round), Progress(recipe.rounds, state.round)
        sinks = [metrics, *start_trackers(recipe.tracking, output.directory, client.run), progress]
        _print_start(progress, models, client.run, state, resumed=arguments.resume is not None)
    began = started - state.elapsed
    trainer = Trainer(recipe, components, probe, batches, state, checkpoints, chooser, sinks, began)
    try:
        trainer.run()
    finally:
        for sink in sinks:
            sink.close()
    end = probe.evaluate()
    weights = components.engine.state_dict()
    if client is not None and output is not None:
        if not output.joined:
            client.finish()
        unsent = client.flush()
        student = models.exported.export(weights, output.directory)
        metrics.write_summary(
            _summary(recipe, state, end)
            | {
                "run": client.run,
                "rounds": state.round,
                "seconds": round(time.monotonic() - began, 3),
                "load_seconds": round(models.load_seconds, 3),
                "unsent_reports": unsent,
                "student": student.name,
            }
        )
        print(f"student {_quality(end)}; written to {output.directory}", flush=True)


def _worker_info(recipe: Recipe, process_group: ProcessGroup, state: LoopState) -> pb.WorkerInfo:
    """Return what the worker tells the server about itself."""
    versions = {name: version(name) for name in ("torch", "deepspeed")}
    versions |= {"optima": version("optima-distill"), "python": platform.python_version()}
    assert state.start is not None
    return pb.WorkerInfo(
        ranks=process_group.world_size,
        device=process_group.device_kind,
        versions=versions,
        recipe=recipe.name,
        teacher_metrics=state.teacher_metrics,
        student_metrics=state.start.metrics,
        total_loss=state.start.total_loss if math.isfinite(state.start.total_loss) else None,
    )


def _print_start(progress: Progress, models: Models, run_name: str, state: LoopState, *, resumed: bool) -> None:
    assert state.start is not None
    teacher = f"teacher {_percentages(state.teacher_metrics)}; " if state.teacher_metrics else ""
    progress.print(f"run {run_name}: {teacher}student before training {_quality(state.start)}")
    progress.print(f"loss: {', '.join(state.start.terms)}")
    progress.print(f"weights: teacher's {models.teacher_weights}; student's {models.exported.weights}")
    if resumed:
        step = f", step {state.step}" if state.step else ""
        progress.print(f"resumes with round {state.round}{step}")
    for sentence in models.left_out:
        progress.print(sentence)
    if models.ownership.frozen:
        progress.print(f"frozen: {', '.join(models.ownership.frozen)}")
    if models.ownership.unowned:
        progress.print(f"in no module, and not trained: {', '.join(models.ownership.unowned)}")


def _summary(recipe: Recipe, state: LoopState, end: Evaluation) -> dict[str, Any]:
    """Return the fields of summary.json on what was distilled, and how good the student is."""
    start = state.start
    assert start is not None
    return {
        "recipe": recipe.name,
        "policy": recipe.policy.name,
        "train": recipe.train,
        "teacher_accuracy": state.teacher_metrics.get("accuracy"),
        "student_accuracy_start": start.metrics.get("accuracy"),
        "student_accuracy_end": end.metrics.get("accuracy"),
        "loss_start": start.total_loss,
        "loss_end": end.total_loss,
        "teacher_metrics": state.teacher_metrics,
        "metrics_start": start.metrics,
        "metrics_end": end.metrics,
    }


def _quality(evaluation: Evaluation) -> str:
    """Return the task metrics, or the total loss of a model that has none."""
    return _percentages(evaluation.metrics) or f"total loss {evaluation.total_loss:.4f}"


def _percentages(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1%}" for name, value in metrics.items() if "/" not in name)
