"""Models, arms and data, loaded as a recipe says."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from worker import data as data_modules
from worker.data import Context, DataModule
from worker.distill.arms import (
    Ownership,
    check_trainable,
    default_arms,
    frozen_parameters,
    layer_pairs,
    ownership,
)
from worker.distill.modular import ModularModel
from worker.errors import RecipeError
from worker.models import sources
from worker.models.base import Adapter, Fresh, Loaded, ModuleSpec, Role
from worker.models.generic import NamedModule, RegroupedAdapter
from worker.recipe.recipe import Recipe
from worker.recipe.references import reference_errors
from worker.recipe.sections import ModuleRecipe, Patterns, StudentRecipe, TeacherRecipe
from worker.setup.kept_whole import kept_whole


@dataclass(frozen=True)
class Models:
    """Teacher and student, split into the same modules.

    Attributes:
        adapter: The student's adapter.
        teacher: The teacher.
        student: The student.
        exported: The student as it was loaded or cut: it knows how the student is exported.
        arms: Modules by arm, in the spec's order.
        pairs: For each module, its pairs of compared layers: (student's layer, teacher's layer).
        ownership: Which module owns which of the student's parameters.
        load_seconds: Seconds to load both, including the import of the library that they come from.
        teacher_weights: Where the teacher's weights come from, for people to read.
        left_out: A sentence for each module that is no arm by default.
    """

    adapter: Adapter
    teacher: ModularModel
    student: ModularModel
    exported: Loaded
    arms: dict[str, list[str]]
    pairs: dict[str, list[tuple[str, str]]]
    ownership: Ownership
    load_seconds: float = 0.0
    teacher_weights: str = ""
    left_out: tuple[str, ...] = ()

    @property
    def both(self) -> tuple[tuple[ModularModel, str], tuple[ModularModel, str]]:
        """Student and teacher, each with its role as a word."""
        return (self.student, "student"), (self.teacher, "teacher")


def load_models(recipe: Recipe) -> Models:
    """Load the teacher, load or cut the student, and resolve the arms.

    Raises:
        RecipeError: The recipe names something that does not exist; the message lists all such names.
    """
    started = time.monotonic()
    # Fresh weights are the same on every rank, and differ from the student's.
    torch.manual_seed(recipe.seed + 1)
    with _locating_errors(recipe, "teacher", "model"):
        loaded = _load(recipe, recipe.teacher, recipe.teacher.model, "never", "teacher")
    if getattr(loaded.model, "is_quantized", False) and recipe.teacher.placement != "replicate":
        raise RecipeError(
            f"{recipe.at('teacher', 'placement')}: quantized weights cannot be shared between ranks; write "
            "`placement: replicate`, or `options: {dequantize: true}`"
        )
    teacher_adapter = _adapter(recipe, loaded.adapter, teacher=True)
    student = _student(recipe, loaded, teacher_adapter)
    adapter = _adapter(recipe, student.adapter, teacher=False)
    modules = [module.name for module in adapter.modules]
    arms = {name: [name] for name in modules} if recipe.arms is None else recipe.arms
    faults = list(reference_errors(recipe, adapter, teacher_adapter, arms))
    if faults:
        raise RecipeError("the recipe cannot be followed:" + "".join(f"\n  {fault}" for fault in faults))
    teacher_modular = ModularModel(loaded.model, teacher_adapter, recipe.layers)
    student_modular = ModularModel(student.model, adapter, recipe.layers)
    pairs = {}
    for name in modules:
        with _locating_errors(recipe, "student", "layer_map", name):
            layer_map = recipe.student.layer_map.get(name)
            pairs[name] = layer_pairs(student_modular.layers[name], teacher_modular.layers[name], layer_map)
    # Some of the teacher's layers are compared with no student layer.
    teacher_modular.filter_layers(teacher_layer for compared in pairs.values() for _, teacher_layer in compared)
    frozen: list[str] = []
    if not recipe.before_freezing:
        with _locating_errors(recipe, "student", "freeze"):
            frozen = frozen_parameters(student.model, recipe.student.freeze)
    owned = ownership(student.model, {module.name: module.path for module in adapter.modules}, frozen)
    left_out: list[str] = []
    if recipe.arms is None and not recipe.before_freezing:
        whole = kept_whole(recipe, student_modular, teacher_modular, pairs)
        arms, left_out = default_arms(modules, owned, whole, [recipe.policy.name.removeprefix("fixed:")])
    check_trainable(arms, owned)
    _check_dimensions(student.model)
    if recipe.student.checkpointing != "none":
        adapter.checkpoint_activations(student.model)
    seconds = time.monotonic() - started
    return Models(
        adapter,
        teacher_modular,
        student_modular,
        student,
        arms,
        pairs,
        owned,
        seconds,
        loaded.weights,
        tuple(left_out),
    )


def _student(recipe: Recipe, teacher: Loaded, adapter: Adapter) -> Loaded:
    """Cut the student from the teacher, or load it."""
    section = recipe.student
    # Fresh weights are the same on every rank.
    torch.manual_seed(recipe.seed)
    with _locating_errors(recipe, "student", "keep" if section.model is None else "model"):
        if section.model is None:
            student = teacher.cut(section.keep or {}, adapter)
        else:
            student = _load(recipe, section, section.model, "if_bare", "student")
        if section.lora is None:
            student.check_export()
    if section.lora is not None:
        with _locating_errors(recipe, "student", "lora"):
            student = student.tune(section.lora)
            student.check_export()
    return student


def _load(recipe: Recipe, section: TeacherRecipe | StudentRecipe, model: str, fresh: Fresh, role: Role) -> Loaded:
    """Load a model with its weights; fresh weights where ``fresh`` allows them, or where the recipe asks for them."""
    return sources.load(
        model,
        checkpoint=section.checkpoint,
        options=section.options,
        directory=recipe.directory,
        fresh="always" if section.weights == "random" else fresh,
        role=role,
    )


def _adapter(recipe: Recipe, family: Adapter, *, teacher: bool) -> Adapter:
    """Return the family's adapter, or one with the recipe's own ``modules``."""
    if recipe.modules is None:
        return family
    named = []
    for name, entry in recipe.modules.items():
        module = ModuleRecipe(path=entry) if isinstance(entry, str) else entry
        path, layers = module.path, module.layers or module.path
        if teacher:
            path = module.teacher_path or path
            layers = module.teacher_layers or (module.teacher_path if module.layers is None else None) or layers
        named.append(NamedModule(ModuleSpec(name, _as_tuple(path), _as_tuple(layers)), module.mask))
    return RegroupedAdapter(family, named, recipe.logits_mask)


def _as_tuple(patterns: Patterns) -> tuple[str, ...]:
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)


def _check_dimensions(student: nn.Module) -> None:
    """Raise RecipeError if DeepSpeed cannot shard a parameter."""
    scalars = [name for name, parameter in student.named_parameters() if parameter.ndim == 0]
    if scalars:
        raise RecipeError(
            f"the student's parameters {', '.join(scalars)} have no dimension, and DeepSpeed cannot shard those; "
            "give each the shape [1]"
        )


@contextmanager
def _locating_errors(recipe: Recipe, *where: str) -> Iterator[None]:
    """Prefix errors within the block with the place in the recipe that they are about."""
    try:
        yield
    except RecipeError as error:
        raise RecipeError(f"{recipe.at(*where)}: {error}") from error


def build_data(recipe: Recipe, models: Models) -> DataModule:
    """Build the recipe's data module.

    Raises:
        RecipeError: The name or an option is unknown.
    """
    context = Context(recipe.directory, models.exported.inputs)
    try:
        return data_modules.build(recipe.data.name, recipe.data.options, context)
    except (ValueError, RecipeError) as error:
        raise RecipeError(f"{recipe.at('data')}: {error}") from None


def list_modules(model: nn.Module) -> str:
    """Return a line for every module of a model: its dotted path, class and number of parameters."""
    rows = [
        (name, type(module).__name__, sum(p.numel() for p in module.parameters()))
        for name, module in model.named_modules()
        if name
    ]
    width = max(len(name) for name, _, _ in rows)
    return "\n".join(f"{name:{width}}  {kind:28} {count:>12,}" for name, kind, count in rows)
