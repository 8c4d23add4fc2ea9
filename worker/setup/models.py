"""Models, arms and data, loaded as a recipe says."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from worker import data as data_modules
from worker.data import Context, DataModule, Inputs
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
from worker.models.base import Adapter, Batch, Fresh, Loaded, ModuleSpec, Role, patterns
from worker.models.cut import LayerSelection
from worker.models.generic import NamedModule, RegroupedAdapter
from worker.recipe.recipe import Recipe
from worker.recipe.references import reference_errors, unknown_modules
from worker.recipe.sections import ModuleRecipe, Patterns, StudentRecipe, TeacherRecipe
from worker.setup.kept_whole import kept_whole

log = logging.getLogger(__name__)


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
        teacher_inputs: Returns the teacher's preprocessing; None if the student was cut from it, and has the same.
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
    teacher_inputs: Callable[[], Inputs] | None = None

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
    if recipe.student.keep and isinstance(adapter, RegroupedAdapter):
        adapter = _renumbered(recipe, adapter, LayerSelection(loaded.model, teacher_adapter, recipe.student.keep))
    modules = [module.name for module in adapter.modules]
    arms = {name: [name] for name in modules} if recipe.arms is None else recipe.arms
    faults = list(reference_errors(recipe, adapter, teacher_adapter, arms))
    if faults:
        raise RecipeError("the recipe cannot be followed:" + "".join(f"\n  {fault}" for fault in faults))
    teacher_modular = ModularModel(loaded.model, teacher_adapter, recipe.layers, teacher=True)
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
        None if recipe.student.model is None else loaded.inputs,
    )


def _student(recipe: Recipe, teacher: Loaded, adapter: Adapter) -> Loaded:
    """Cut the student from the teacher, or load it."""
    section = recipe.student
    if section.model is None and section.keep and not adapter.modules:
        raise RecipeError(f"{recipe.at('teacher', 'model')}: {unknown_modules(adapter)}")
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
        spec = ModuleSpec(name, _as_tuple(path), _as_tuple(layers), matched=_as_tuple(module.matched))
        named.append(NamedModule(spec, module.mask))
    return RegroupedAdapter(family, named, recipe.logits_mask)


def _renumbered(recipe: Recipe, adapter: RegroupedAdapter, selection: LayerSelection) -> RegroupedAdapter:
    """Return the adapter of a student that was cut: what its modules name by number follows the teacher's layers.

    Names that a recipe gives for both, by ``teacher_path`` or ``teacher_layers``, stay as they are.
    """
    modules = []
    for spec in adapter.modules:
        entry = (recipe.modules or {})[spec.name]
        module = ModuleRecipe(path=entry) if isinstance(entry, str) else entry
        path, layers = patterns(spec.path), patterns(spec.layers)
        if module.teacher_path is None:
            path = selection.renumbered(path)
        if module.teacher_layers is None and (module.layers is not None or module.teacher_path is None):
            layers = selection.renumbered(layers)
        modules.append(replace(spec, path=path, layers=layers))
    return adapter.with_modules(modules)


def _as_tuple(globs: Patterns) -> tuple[str, ...]:
    return (globs,) if isinstance(globs, str) else tuple(globs)


@contextmanager
def _locating_errors(recipe: Recipe, *where: str) -> Iterator[None]:
    """Prefix errors within the block with the place in the recipe that they are about."""
    try:
        yield
    except RecipeError as error:
        raise RecipeError(f"{recipe.at(*where)}: {error}") from error


def settle(models: Models, batch: Batch) -> None:
    """Let modules that the recipe defines run without the family's adapter if that cannot read the data's batches.

    Both models are then run in the same way, so that their logits are alike.

    Args:
        models: Both models, on the CPU.
        batch: A few rows.
    """
    for modular, role in models.both:
        if not isinstance(modular.adapter, RegroupedAdapter):
            return
        training = modular.model.training
        modular.model.eval()
        with torch.no_grad():
            reason = modular.adapter.fault(modular.model, batch)
        modular.model.train(training)
        if reason:
            log.warning(
                "the %s is called with the entries of a batch that its forward pass names, since OPTIMA's adapter for "
                "it cannot read the batches: %s",
                role,
                reason,
            )
            for one, _ in models.both:
                if isinstance(one.adapter, RegroupedAdapter):
                    one.adapter.run_as_any_module()
            return


def build_data(recipe: Recipe, models: Models) -> DataModule:
    """Build the recipe's data module.

    Raises:
        RecipeError: The name or an option is unknown.
    """
    context = Context(recipe.directory, models.exported.inputs, models.teacher_inputs)
    try:
        return data_modules.build(recipe.data.name, recipe.data.options, context)
    except (ValueError, RecipeError) as error:
        raise RecipeError(f"{recipe.at('data')}: {error}") from None
