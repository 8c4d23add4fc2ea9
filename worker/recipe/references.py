"""Checks of the names in a recipe that only its models can judge: modules, arms, losses. All errors come at once."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from worker.distill.arms import arm_faults
from worker.distill.losses import LAYER_LOSSES, LOGIT_LOSSES
from worker.errors import RecipeError
from worker.imports import lookup_or_import
from worker.models.base import Adapter
from worker.names import suggest
from worker.recipe.recipe import Recipe


def reference_errors(
    recipe: Recipe, adapter: Adapter, teacher: Adapter, arms: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    """Yield one line for each error: the field's line and path, the error, and the nearest name.

    Args:
        recipe: The recipe.
        adapter: The student's adapter.
        teacher: The teacher's adapter.
        arms: The recipe's arms, or the default ones.
    """
    modules = [module.name for module in adapter.modules]
    teacher_modules = [module.name for module in teacher.modules]
    if not modules or not teacher_modules:
        field = recipe.at("student" if not modules else "teacher", "model")
        yield f"{field}: the modules of this model are unknown; name them under `modules` (see --list-modules)"
        return
    if modules != teacher_modules:
        yield (
            f"{recipe.at('student', 'model')}: the student's modules are {', '.join(modules)} and the teacher's "
            f"{', '.join(teacher_modules)}; name the modules to compare under `modules`"
        )
    yield from _unknown_modules(recipe, modules, ("layers",), recipe.layers)
    yield from _unknown_modules(recipe, modules, ("student", "layer_map"), recipe.student.layer_map)
    for field in ("layers", "layer_loss"):
        by_module = getattr(recipe.loss, field)
        if isinstance(by_module, dict):
            yield from _unknown_modules(recipe, modules, ("loss", field), by_module)
    for arm, sentence in arm_faults(arms, modules):
        yield f"{recipe.at('arms', arm)}: {sentence}"
    yield from _unknown_losses(recipe)


def _unknown_losses(recipe: Recipe) -> Iterator[str]:
    loss = recipe.loss
    references: list[tuple[tuple[str, ...], str, Mapping[str, Any], str]] = [
        (("loss", "logit_loss"), loss.logit_loss, LOGIT_LOSSES, "a logit loss"),
        *((("loss", "task", name), name, {}, "a task loss") for name in loss.task or () if ":" in name),
    ]
    if isinstance(loss.layer_loss, str):
        references.append((("loss", "layer_loss"), loss.layer_loss, LAYER_LOSSES, "a layer loss"))
    else:
        each = loss.layer_loss.items()
        references += [(("loss", "layer_loss", module), name, LAYER_LOSSES, "a layer loss") for module, name in each]
    for path, name, known, kind in references:
        try:
            lookup_or_import(name, known, kind)
        except RecipeError as error:
            yield f"{recipe.at(*path)}: {error}"


def _unknown_modules(
    recipe: Recipe, modules: Sequence[str], section: tuple[str, ...], names: Iterable[str]
) -> Iterator[str]:
    for name in names:
        if name not in modules:
            field = recipe.at(*section, name)
            yield f"{field}: there is no module {name!r}{suggest(name, modules, 'modules')}"
