"""Modules of the student that are the teacher's, so that they have nothing to learn by themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest

import torch
from torch import Tensor, nn

from worker.distill.losses import LAYER_LOSSES, LOGIT_LOSSES
from worker.distill.modular import ModularModel
from worker.distill.objective import by_module
from worker.errors import RecipeError
from worker.models.base import Patterns, patterns
from worker.models.paths import matching_modules, parameters_of
from worker.recipe.recipe import Recipe


def kept_whole(
    recipe: Recipe, student: ModularModel, teacher: ModularModel, pairs: Mapping[str, Sequence[tuple[str, str]]]
) -> list[str]:
    """Return the names of the modules whose own loss is 0 before training.

    Under ``forced`` a module reads what the teacher's reads. If it also has the same layers, weights and buffers, it
    puts out the same. In the other modes it reads the student's own boundary tensors, and there is always something to
    learn; so there is for a module with task terms.

    Args:
        recipe: The recipe.
        student: The student.
        teacher: The teacher.
        pairs: For each module, its pairs of compared layers.
    """
    if recipe.train != "forced":
        return []
    adapter = student.adapter
    layer_losses = by_module(recipe.loss.layer_loss, adapter, "mse")
    theirs = {module.name: module for module in teacher.adapter.modules}
    whole = []
    for module in adapter.modules:
        name = module.name
        has_task = recipe.loss.task is None or any(recipe.loss.task.values())
        # Without declared inputs it is found out later; mostly it is the last one.
        maker = adapter.modules[-1].name if not adapter.declared else (adapter.logits or ("", ""))[0]
        makes_logits = maker == name
        # A user's own loss of equal tensors need not be 0.
        known = layer_losses[name] in LAYER_LOSSES and (not makes_logits or recipe.loss.logit_loss in LOGIT_LOSSES)
        unlike = [pair for pair in zip_longest(student.layers[name], teacher.layers[name]) if pair not in pairs[name]]
        learns_nothing = known and not unlike and not (makes_logits and has_task)
        if learns_nothing and _equal(student.model, module.path, teacher.model, theirs[name].path):
            whole.append(name)
    return whole


def _equal(student: nn.Module, student_path: Patterns, teacher: nn.Module, teacher_path: Patterns) -> bool:
    """Return whether these modules have the same structure and bitwise the same tensors."""
    ours, theirs = list(_modules(student, student_path)), list(_modules(teacher, teacher_path))
    if [repr(module) for module in ours] != [repr(module) for module in theirs]:
        return False
    tensors = [
        [*parameters_of(model, path), *(buffer for module in modules for buffer in module.buffers())]
        for model, path, modules in ((student, student_path, ours), (teacher, teacher_path, theirs))
    ]
    return len(tensors[0]) == len(tensors[1]) and all(
        _same(one, other) for one, other in zip(tensors[0], tensors[1], strict=True)
    )


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)


def _modules(model: nn.Module, path: Patterns) -> Iterator[nn.Module]:
    """Yield the PyTorch modules that a path names; it may also name single parameters."""
    for pattern in patterns(path):
        try:
            names = matching_modules(model, pattern)
        except RecipeError:
            continue
        for name in names:
            yield model.get_submodule(name)
