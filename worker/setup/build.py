"""Everything that trains on one rank, built from a recipe and its models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch

from worker.data import DataModule, Judged
from worker.data.base import Cursor
from worker.data.loader import TrainingBatches, first_batches, training_batches
from worker.distill.arms import JOINT
from worker.distill.objective import Objective
from worker.distill.plan import Plan, Planner
from worker.distill.projection import Projections, principal_map
from worker.distill.student import Student
from worker.distill.teacher import Teacher
from worker.engine.engine import Engine
from worker.engine.process_group import ProcessGroup
from worker.engine.sharding import shard
from worker.errors import RecipeError
from worker.evaluation.probe import Probe
from worker.recipe.recipe import Recipe
from worker.recipe.sections import DataRecipe, ProbeRecipe
from worker.setup.dry_run import DryRun
from worker.setup.forced import with_stand_ins
from worker.setup.models import Models, build_data, settle
from worker.setup.shape_check import Widths, compare_shapes

SHAPE_CHECK_ROWS = 2
"""Rows of the batch on which shapes are compared, on the CPU."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
MAP_BATCHES = 4
"""Training batches from which the boundary projections are computed."""


@dataclass(frozen=True)
class Components:
    """The components of one rank, connected to each other.

    Attributes:
        models: Teacher and student, arms and compared layers.
        process_group: The job's ranks.
        data: Training and held-out data.
        objective: The loss terms and their weights.
        planner: Derives what a round computes and trains.
        engine: The student under DeepSpeed.
        teacher: The frozen teacher, on its device.
        dry_run: Checks every arm by steps that change nothing.
    """

    models: Models
    process_group: ProcessGroup
    data: DataModule
    objective: Objective
    planner: Planner
    engine: Engine
    teacher: Teacher
    dry_run: DryRun

    def plan(self, arm: str) -> Plan:
        """Return the plan of a round on this arm."""
        return self.planner.joint() if arm == JOINT else self.planner.arm(self.models.arms[arm])

    def probe(self, recipe: ProbeRecipe) -> Probe:
        """Build the probe; collective, since it runs the teacher."""
        return Probe(
            self.engine, self.process_group, self.planner, self.objective, self.teacher, self.data, recipe
        )  # fmt: skip

    def batches(
        self, recipe: DataRecipe, position: int = 0, cursors: Mapping[int, Cursor] | None = None
    ) -> TrainingBatches:
        """Start loading this rank's training batches.

        Args:
            recipe: Batch size and loader processes.
            position: Batches that this rank has taken before.
            cursors: Where the rank's lanes of a stream continue, after so many batches.
        """
        return training_batches(
            self.data,
            batch_size=recipe.batch_size,
            rank=self.process_group.rank,
            world=self.process_group.world_size,
            start=position,
            workers=recipe.workers,
            cursors=cursors,
            prefetch=recipe.prefetch,
        )


def build(recipe: Recipe, models: Models, process_group: ProcessGroup) -> Components:
    """Build the components of this rank; collective.

    The models are loaded before, by `load_models`: a job first checks their arms with the server, since this is slow.

    Raises:
        RecipeError: Teacher, student and data do not fit each other.
    """
    torch.manual_seed(recipe.seed)
    data = build_data(recipe, models)
    rows = first_batches(data, count=1, size=SHAPE_CHECK_ROWS)[0]
    settle(models, rows)
    if recipe.train == "forced" and not all(modular.adapter.declared for modular, _ in models.both):
        models = with_stand_ins(models, rows)
    logits_module = models.adapter.logits[0] if models.adapter.logits else None
    if isinstance(data, Judged) and logits_module is None:
        raise RecipeError(
            f"{recipe.at('data')}: the task is measured on generated text, and a "
            f"{type(models.student.model).__name__} generates none; use a CoCa or a BLIP"
        )
    readers = {module: models.ownership.readers(module) for module in models.ownership.owned}
    planner = Planner(models.adapter.modules, logits_module, recipe.train, readers)
    objective = Objective(models.adapter, models.pairs, recipe.loss)
    widths = compare_shapes(
        models,
        rows,
        forced=recipe.train == "forced",
        objective=objective,
        # Data whose models generate no text need not have the former, and only some have the latter.
        vocab_size=getattr(data, "vocab_size", 0),
        text_difference=getattr(data, "text_difference", ""),
    )
    projections = _projections(models, widths, data, process_group, recipe.data.batch_size)
    student = Student(models.student, objective, projections)
    engine = Engine(
        student,
        student.owned(models.ownership.owned),
        recipe.optimizer,
        recipe.deepspeed,
        micro_batch=recipe.data.batch_size,
    )
    placement = recipe.teacher.placement
    teacher = Teacher(
        models.teacher,
        process_group.device,
        engine.dtype,
        computes=DTYPES[recipe.teacher.dtype] if recipe.teacher.dtype else None,
        placement=None if placement == "replicate" else partial(shard, offload=placement == "cpu"),
    )
    step_batches = first_batches(
        data,
        count=engine.accumulation,
        size=recipe.data.batch_size,
        rank=process_group.rank,
        world=process_group.world_size,
    )
    dry_run = DryRun(
        models, process_group, engine, student, teacher, planner, [engine.to_device(batch) for batch in step_batches]
    )
    return Components(models, process_group, data, objective, planner, engine, teacher, dry_run)


def _projections(
    models: Models, widths: Widths, data: DataModule, process_group: ProcessGroup, batch_size: int
) -> Projections:
    """Return the projections between these widths, the same on every rank."""
    if not widths.boundary:
        return Projections(widths.hidden, {})
    modules = [module.name for module in models.adapter.modules]
    batches = first_batches(data, count=MAP_BATCHES, size=batch_size)
    models.teacher.model.eval()
    with torch.no_grad():
        boundaries = [models.teacher.run(modules, batch).boundary for batch in batches]
    maps = {
        (module, name): principal_map(
            [boundary[module][name] for boundary in boundaries],
            [
                models.adapter.mask_for(module, name, batch, boundary[module][name])
                for batch, boundary in zip(batches, boundaries, strict=True)
            ],
            width,
        )
        for (module, name), width in widths.boundary.items()
    }
    # Eigenvectors of near-equal eigenvalues may differ between machines.
    return Projections(widths.hidden, process_group.broadcast(maps))
