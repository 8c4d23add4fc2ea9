"""What trains on one rank, from the engine up, put together before any round."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from worker.data import DataModule, Judged
from worker.data.loader import first_batches
from worker.distill.objective import Objective
from worker.distill.plan import Planner
from worker.distill.projection import Projections, principal_map
from worker.distill.student import Student
from worker.distill.teacher import Teacher
from worker.engine.engine import Engine
from worker.engine.process_group import Ranks
from worker.engine.sharding import partitioned
from worker.errors import RecipeError
from worker.recipe.recipe import Recipe
from worker.setup import models as assemble
from worker.setup.dry_run import Proof
from worker.setup.models import Models
from worker.setup.shape_check import Widths, compare

COMPARED_ROWS = 2
"""Rows of the first look at both models, on the CPU."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
MAP_BATCHES = 4
"""Training batches from which the boundary projections are computed."""


@dataclass(frozen=True)
class Rig:
    """The parts, wired up."""

    data: DataModule
    objective: Objective
    planner: Planner
    engine: Engine
    teacher: Teacher
    proof: Proof


def assemble_rig(recipe: Recipe, models: Models, ranks: Ranks) -> Rig:
    """Wrap the student and prepare the dry step. Collective.

    Raises:
        RecipeError: Teacher, student and data do not fit each other.
    """
    torch.manual_seed(recipe.seed)
    data = assemble.data(recipe, models)
    logits_module = models.adapter.logits[0] if models.adapter.logits else None
    if isinstance(data, Judged) and logits_module is None:
        raise RecipeError(
            f"{recipe.at('data')}: the task is judged by what a model writes, and a "
            f"{type(models.student.model).__name__} writes nothing; CoCa and BLIP do"
        )
    readers = {module: models.ownership.readers(module) for module in models.ownership.owned}
    planner = Planner(models.adapter.modules, logits_module, recipe.train, readers)
    objective = Objective(models.adapter, models.pairs, recipe.loss)
    rows = first_batches(data, count=1, size=COMPARED_ROWS)[0]
    widths = compare(models, rows, forced=recipe.train == "forced", objective=objective)
    projections = _projections(models, widths, data, ranks, recipe.data.batch_size)
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
        ranks.device,
        engine.dtype,
        computes=DTYPES[recipe.teacher.dtype] if recipe.teacher.dtype else None,
        placement=None if placement == "replicate" else partial(partitioned, offload=placement == "cpu"),
    )
    size, count = recipe.data.batch_size, engine.accumulation
    early = first_batches(data, count=count, size=size, rank=ranks.rank, world=ranks.world)
    batches = [engine.to_device(batch) for batch in early]
    proof = Proof(models, ranks, engine, student, teacher, planner, batches)
    return Rig(data, objective, planner, engine, teacher, proof)


def _projections(models: Models, widths: Widths, data: DataModule, ranks: Ranks, size: int) -> Projections:
    """The maps that these widths need, the same on every rank."""
    if not widths.boundary:
        return Projections(widths.hidden, {})
    modules = [module.name for module in models.adapter.modules]
    batches = first_batches(data, count=MAP_BATCHES, size=size)
    models.teacher.model.eval()
    with torch.no_grad():
        seen = [models.teacher.run(modules, batch).boundary for batch in batches]
    maps = {
        (module, name): principal_map(
            [boundary[module][name] for boundary in seen],
            [models.adapter.mask(module, name, batch) for batch in batches],
            width,
        )
        for (module, name), width in widths.boundary.items()
    }
    # Eigenvectors of near-equal eigenvalues may differ between machines.
    return Projections(widths.hidden, ranks.broadcast(maps))
