"""Names in a recipe that only its models can judge: modules, arms, losses. All that are wrong are told at once."""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from worker.distill.arms import arm_faults
from worker.distill.losses import LAYER_LOSSES, LOGIT_LOSSES
from worker.distill.plan import check_declared
from worker.errors import RecipeError
from worker.imports import known_or_imported
from worker.models.base import Adapter
from worker.recipe.recipe import Recipe


def name_faults(recipe: Recipe, adapter: Adapter, teacher: Adapter, arms: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """A line for each fault: where it stands, what it is, the nearest name.

    Args:
        recipe: What names them.
        adapter: The student's.
        teacher: The teacher's.
        arms: The recipe's arms, or the default ones.
    """
    modules = [module.name for module in adapter.modules]
    theirs = [module.name for module in teacher.modules]
    if not modules or not theirs:
        who = "student" if not modules else "teacher"
        where = recipe.at(who, "model")
        yield f"{where}: this model's modules are not known; name them under `modules` (--list-modules)"
        return
    if modules != theirs:
        yield (
            f"{recipe.at('student', 'model')}: the student's modules are {', '.join(modules)} and the teacher's "
            f"{', '.join(theirs)}; name what is to be compared under `modules`"
        )
    yield from _unknown(recipe, modules, ("layers",), recipe.layers)
    yield from _unknown(recipe, modules, ("student", "layer_map"), recipe.student.layer_map)
    for field in ("layers", "layer_loss"):
        given = getattr(recipe.loss, field)
        if isinstance(given, dict):
            yield from _unknown(recipe, modules, ("loss", field), given)
    for arm, sentence in arm_faults(arms, modules):
        yield f"{recipe.at('arms', arm)}: {sentence}"
    yield from _loss_faults(recipe)
    if recipe.train == "forced":
        try:
            check_declared(adapter.modules)
        except RecipeError as error:
            yield f"{recipe.at('train')}: {error}"


def _loss_faults(recipe: Recipe) -> Iterator[str]:
    loss = recipe.loss
    looked_up: list[tuple[tuple[str, ...], str, Mapping[str, Any], str]] = [
        (("loss", "logit_loss"), loss.logit_loss, LOGIT_LOSSES, "a logit loss"),
        *((("loss", "task", name), name, {}, "a task loss") for name in loss.task or () if ":" in name),
    ]
    if isinstance(loss.layer_loss, str):
        looked_up.append((("loss", "layer_loss"), loss.layer_loss, LAYER_LOSSES, "a layer loss"))
    else:
        each = loss.layer_loss.items()
        looked_up += [(("loss", "layer_loss", module), name, LAYER_LOSSES, "a layer loss") for module, name in each]
    for where, name, known, what in looked_up:
        try:
            known_or_imported(name, known, what)
        except RecipeError as error:
            yield f"{recipe.at(*where)}: {error}"


def _unknown(recipe: Recipe, modules: Sequence[str], where: tuple[str, ...], named: Iterable[str]) -> Iterator[str]:
    for name in named:
        if name not in modules:
            near = difflib.get_close_matches(name, modules, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            yield (
                f"{recipe.at(*where, name)}: {'.'.join(where)} names the module {name!r}; {hint}"
                f"The modules are {', '.join(modules)}"
            )
