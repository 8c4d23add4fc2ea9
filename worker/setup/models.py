"""From a recipe to models, arms and data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from worker import data as data_modules
from worker.data import Context, DataModule
from worker.distill.arms import Ownership, check_trainable, layer_pairs, ownership
from worker.distill.modular import ModularModel
from worker.errors import RecipeError
from worker.models import sources
from worker.models.base import Adapter, Fresh, Loaded, ModuleSpec
from worker.models.generic import NamedModule, RegroupedAdapter
from worker.recipe.recipe import Recipe
from worker.recipe.references import reference_errors
from worker.recipe.sections import ModuleRecipe, Patterns, StudentRecipe, TeacherRecipe


@dataclass(frozen=True)
class Models:
    """Teacher and student, taken apart alike, and what follows from that.

    Attributes:
        adapter: The student's.
        exported: The student as it was loaded or cut: it knows how it is given back.
        arms: Modules by arm, in the spec's order.
        pairs: For each module, which student layer is compared with which teacher layer.
        ownership: Which module owns which of the student's parameters.
        load_seconds: How long it took to load both, the import of the library that they come from included.
        teacher_weights: Where the teacher's come from, for people to read.
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

    @property
    def both(self) -> tuple[tuple[ModularModel, str], tuple[ModularModel, str]]:
        """Student and teacher, each with its name."""
        return (self.student, "student"), (self.teacher, "teacher")


def models(recipe: Recipe) -> Models:
    """Load the teacher, make the student and resolve the arms.

    Raises:
        RecipeError: The recipe names something that is not there; all such names are told at once.
    """
    started = time.monotonic()
    # Fresh weights are the same on every rank, and not the student's.
    torch.manual_seed(recipe.seed + 1)
    with _told(recipe, "teacher", "model"):
        loaded = _loaded(recipe, recipe.teacher, recipe.teacher.model, "never")
    theirs = _adapter(recipe, loaded.adapter, teacher=True)
    student = _student(recipe, loaded, theirs)
    adapter = _adapter(recipe, student.adapter, teacher=False)
    modules = [module.name for module in adapter.modules]
    arms = {name: [name] for name in modules} if recipe.arms is None else recipe.arms
    faults = list(reference_errors(recipe, adapter, theirs, arms))
    if faults:
        raise RecipeError("the recipe cannot be followed:" + "".join(f"\n  {fault}" for fault in faults))
    teacher_modular = ModularModel(loaded.model, theirs, recipe.layers)
    student_modular = ModularModel(student.model, adapter, recipe.layers)
    pairs = {}
    for name in modules:
        with _told(recipe, "student", "layer_map", name):
            chosen = recipe.student.layer_map.get(name)
            pairs[name] = layer_pairs(student_modular.layers[name], teacher_modular.layers[name], chosen)
    # A teacher has layers that no student layer is compared with.
    teacher_modular.filter_layers(theirs for matched in pairs.values() for _, theirs in matched)
    owned = ownership(student.model, {module.name: module.path for module in adapter.modules})
    check_trainable(arms, owned)
    _check_dimensions(student.model)
    if recipe.student.checkpointing != "none":
        adapter.checkpoint_activations(student.model)
    seconds = time.monotonic() - started
    return Models(adapter, teacher_modular, student_modular, student, arms, pairs, owned, seconds, loaded.weights)


def _student(recipe: Recipe, teacher: Loaded, adapter: Adapter) -> Loaded:
    """The student: cut from the teacher, or a model of its own."""
    wanted = recipe.student
    if wanted.model is None:
        with _told(recipe, "student", "keep"):
            return teacher.cut(wanted.keep or {}, adapter)
    # Fresh weights are the same on every rank.
    torch.manual_seed(recipe.seed)
    with _told(recipe, "student", "model"):
        return _loaded(recipe, wanted, wanted.model, "if_bare")


def _loaded(recipe: Recipe, wanted: TeacherRecipe | StudentRecipe, model: str, fresh: Fresh) -> Loaded:
    """A model with its weights; fresh ones as far as ``fresh`` allows, or because the recipe asks for them."""
    return sources.load(
        model,
        checkpoint=wanted.checkpoint,
        options=wanted.options,
        directory=recipe.directory,
        fresh="always" if wanted.weights == "random" else fresh,
    )


def _adapter(recipe: Recipe, family: Adapter, *, teacher: bool) -> Adapter:
    """The family's adapter, or what the recipe makes of it."""
    if recipe.modules is None:
        return family
    named = []
    for name, given in recipe.modules.items():
        module = ModuleRecipe(path=given) if isinstance(given, str) else given
        path, layers = module.path, module.layers or module.path
        if teacher:
            path = module.teacher_path or path
            layers = module.teacher_layers or (module.teacher_path if module.layers is None else None) or layers
        named.append(NamedModule(ModuleSpec(name, _several(path), _several(layers)), module.mask))
    return RegroupedAdapter(family, named, recipe.logits_mask)


def _several(given: Patterns) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _check_dimensions(student: nn.Module) -> None:
    """Raise RecipeError for what DeepSpeed cannot split."""
    scalars = [name for name, parameter in student.named_parameters() if parameter.ndim == 0]
    if scalars:
        raise RecipeError(
            f"the student's parameters {', '.join(scalars)} have no dimension, and DeepSpeed cannot split such; "
            "give each the shape [1]"
        )


@contextmanager
def _told(recipe: Recipe, *where: str) -> Iterator[None]:
    """Errors within say where in the recipe they come from."""
    try:
        yield
    except RecipeError as error:
        raise RecipeError(f"{recipe.at(*where)}: {error}") from error


def data(recipe: Recipe, models: Models) -> DataModule:
    """The recipe's data module.

    Raises:
        RecipeError: Unknown name or options.
    """
    context = Context(recipe.directory, models.exported.inputs)
    try:
        return data_modules.build(recipe.data.name, recipe.data.options, context)
    except (ValueError, RecipeError) as error:
        raise RecipeError(f"{recipe.at('data')}: {error}") from None


def describe(model: nn.Module) -> str:
    """Every module of a model: its dotted path, class and number of parameters."""
    rows = [
        (name, type(module).__name__, sum(p.numel() for p in module.parameters()))
        for name, module in model.named_modules()
        if name
    ]
    width = max(len(name) for name, _, _ in rows)
    return "\n".join(f"{name:{width}}  {kind:28} {count:>12,}" for name, kind, count in rows)
