"""Teacher and student seen once on a few rows, before anything is wrapped: does every hook fire, and what fits what?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

from worker.distill.modular import ModularModel, Outputs
from worker.distill.objective import Objective
from worker.distill.plan import Planner
from worker.distill.projection import HiddenWidths
from worker.errors import RecipeError
from worker.models.base import Batch
from worker.names import suggest
from worker.setup.models import Models


@dataclass(frozen=True)
class Widths:
    """Where student and teacher differ in the last dimension.

    Attributes:
        hidden: For student layers, by name.
        boundary: The student's width of (module, boundary tensor).
    """

    hidden: dict[str, HiddenWidths] = field(default_factory=dict)
    boundary: dict[tuple[str, str], int] = field(default_factory=dict)


def compare(models: Models, batch: Batch, *, forced: bool, objective: Objective | None = None) -> Widths:
    """Run both models in full on a small batch and see what they put out.

    Args:
        models: As assembled, on the CPU; they are left as they are.
        batch: A few rows.
        forced: Whether the student's modules are to read the teacher's boundary tensors.
        objective: Whose task terms the model should be able to compute.

    Raises:
        RecipeError: A hook does not fire, shapes differ in more than the last dimension, or there is no such task term;
            names every fault.
    """
    student, teacher = (_outputs(modular, batch, who) for modular, who in models.both)
    faults: list[str] = []
    widths = Widths()
    for module, pairs in models.pairs.items():
        for ours, theirs in pairs:
            missing = [
                _silent(models, module, modular, layer, batch, who)
                for (modular, who), layer, seen in zip(models.both, (ours, theirs), (student, teacher), strict=True)
                if layer not in seen.hidden
            ]
            faults += missing
            if not missing:
                here, there = student.hidden[ours].shape, teacher.hidden[theirs].shape
                if here[:-1] != there[:-1]:
                    faults.append(_misfit(models, module, f"layer {ours}", here, f"layer {theirs}", there))
                elif here != there:
                    widths.hidden[ours] = HiddenWidths(module, here[-1], there[-1])
    for module, name in _boundaries(models, student, forced):
        there_tensor = teacher.boundary[module].get(name)
        if there_tensor is None:
            faults.append(f"{_arms(models, module)}: the teacher's {module} puts out no boundary tensor {name!r}")
            continue
        here, there = student.boundary[module][name].shape, there_tensor.shape
        if here[:-1] != there[:-1]:
            faults.append(_misfit(models, module, name, here, name, there))
        elif here != there:
            widths.boundary[module, name] = here[-1]
    if student.logits is not None and teacher.logits is not None and student.logits.shape != teacher.logits.shape:
        faults.append(
            f"the student's logits are {list(student.logits.shape)} and the teacher's {list(teacher.logits.shape)}; "
            "nothing may differ"
        )
    if objective is not None:
        faults += _unknown_terms(models, objective, student, batch)
    if faults:
        raise RecipeError("the student cannot be distilled as the recipe says:\n  " + "\n  ".join(faults))
    return widths


def _outputs(modular: ModularModel, batch: Batch, who: str) -> Outputs:
    """What a model puts out, in eval mode and without gradient."""
    training = modular.model.training
    modular.model.eval()
    try:
        with torch.no_grad():
            return modular.run([module.name for module in modular.adapter.modules], batch)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in batch.items())
        raise RecipeError(f"the {who} cannot run the data's batches ({shapes}): {error}") from error
    finally:
        modular.model.train(training)


def _boundaries(models: Models, student: Outputs, forced: bool) -> Iterator[tuple[str, str]]:
    """The boundary tensors that are compared or, under teacher forcing, read."""
    modules = models.adapter.modules
    read = {name for module in modules for name in module.inputs or ()} if forced else set()
    for module in modules:
        for name in student.boundary[module.name]:
            if (module.name in read or name in module.matched) and (module.name, name) != models.adapter.logits:
                yield module.name, name


def _unknown_terms(models: Models, objective: Objective, student: Outputs, batch: Batch) -> Iterator[str]:
    """A sentence for each task term that has a name and that nobody computes."""
    plan = Planner(models.adapter.modules, None, "active").task()
    with torch.no_grad():
        computed = objective.task_terms(plan, models.student.model, student, batch)
    for name in objective.named:
        if name not in computed:
            hint = suggest(name, computed, "task losses that it computes")
            yield f"loss.task names {name!r}, which the model does not compute{hint}"


def _silent(models: Models, module: str, modular: ModularModel, layer: str, batch: Batch, who: str) -> str:
    with _calls(modular.model) as called:
        _outputs(modular, batch, who)
    hint = suggest(layer, called, "modules that it calls", most=3)
    return (
        f"{_arms(models, module)}: the hook on the {who}'s {layer} did not fire: the forward pass does not call that "
        f"module{hint}"
    )


@contextmanager
def _calls(model: nn.Module) -> Iterator[list[str]]:
    """Names of the modules that are called within the block."""
    called: list[str] = []

    def note(name: str) -> object:
        return lambda *_: called.append(name)

    hooks = [module.register_forward_hook(note(name)) for name, module in model.named_modules() if name]
    try:
        yield called
    finally:
        for hook in hooks:
            hook.remove()


def _misfit(
    models: Models,
    module: str,
    ours: str,
    here: torch.Size,
    theirs: str,
    there: torch.Size,
) -> str:
    return (
        f"{_arms(models, module)}: the student's {ours} of {module} puts out {list(here)} and the teacher's {theirs} "
        f"{list(there)}; only the last dimension may differ"
    )


def _arms(models: Models, module: str) -> str:
    arms = [arm for arm, members in models.arms.items() if module in members]
    return f"arm {', '.join(arms)}" if arms else f"module {module}"
