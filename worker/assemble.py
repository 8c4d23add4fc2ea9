"""From a recipe to models, arms and data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from worker import data as data_modules
from worker.arms import Ownership, check_arms, check_trainable, layer_pairs, ownership
from worker.data import DataModule
from worker.errors import RecipeError
from worker.models.base import Adapter
from worker.models.coca import CoCaAdapter
from worker.models.cut import cut
from worker.models.open_clip_loader import Loaded, load
from worker.parted import Parted
from worker.recipe import Recipe


@dataclass(frozen=True)
class Models:
    """Teacher and student, taken apart alike, and what follows from that.

    Attributes:
        student_config: The student's open_clip configuration.
        arms: Modules by arm, in the spec's order.
        pairs: For each module, which student layer is compared with which teacher layer.
        ownership: Which module owns which of the student's parameters.
    """

    adapter: Adapter
    teacher: Parted
    student: Parted
    student_config: dict[str, Any]
    arms: dict[str, list[str]]
    pairs: dict[str, list[tuple[str, str]]]
    ownership: Ownership

    @property
    def both(self) -> tuple[tuple[Parted, str], tuple[Parted, str]]:
        """Student and teacher, each with its name."""
        return (self.student, "student"), (self.teacher, "teacher")


def models(recipe: Recipe) -> Models:
    """Load the teacher, make the student and resolve the arms.

    Raises:
        RecipeError: The recipe names something that is not there.
    """
    adapter = CoCaAdapter()
    loaded = load(recipe.teacher.model, checkpoint=recipe.teacher.checkpoint, directory=recipe.directory)
    student, student_config = _student(recipe, loaded)
    modules = [part.name for part in adapter.parts]
    for field, named in (("layers", recipe.layers), ("student.layer_map", recipe.student.layer_map)):
        for name in named:
            if name not in modules:
                raise RecipeError(f"{field} names the module {name!r}; the modules are {', '.join(modules)}")
    arms = {name: [name] for name in modules} if recipe.arms is None else recipe.arms
    check_arms(arms, modules)
    teacher_parted = Parted(loaded.model, adapter, recipe.layers)
    student_parted = Parted(student, adapter, recipe.layers)
    pairs = {
        name: layer_pairs(student_parted.layers[name], teacher_parted.layers[name], recipe.student.layer_map.get(name))
        for name in modules
    }
    # A teacher has layers that no student layer is compared with.
    teacher_parted.keep(theirs for matched in pairs.values() for _, theirs in matched)
    owned = ownership(student, {part.name: part.path for part in adapter.parts})
    check_trainable(arms, owned)
    if recipe.student.checkpointing != "none":
        adapter.checkpoint_activations(student)
    return Models(adapter, teacher_parted, student_parted, student_config, arms, pairs, owned)


def _student(recipe: Recipe, teacher: Loaded) -> tuple[nn.Module, dict[str, Any]]:
    """The student and its configuration: cut from the teacher, or a model of its own."""
    wanted = recipe.student
    if wanted.model is None:
        return cut(teacher, wanted.keep or {})
    # Fresh weights are the same on every rank.
    torch.manual_seed(recipe.seed)
    student = load(wanted.model, checkpoint=wanted.checkpoint, directory=recipe.directory)
    return student.model, student.config


def data(recipe: Recipe) -> DataModule:
    """The recipe's data module.

    Raises:
        RecipeError: Unknown name or options.
    """
    try:
        return data_modules.build(recipe.data.name, recipe.data.options)
    except ValueError as error:
        raise RecipeError(f"data: {error}") from None


def describe(model: nn.Module) -> str:
    """Every module of a model: its dotted path, class and number of parameters."""
    rows = [
        (name, type(module).__name__, sum(p.numel() for p in module.parameters()))
        for name, module in model.named_modules()
        if name
    ]
    width = max(len(name) for name, _, _ in rows)
    return "\n".join(f"{name:{width}}  {kind:28} {count:>12,}" for name, kind, count in rows)
