"""A check of teacher and student on a few rows, before anything is wrapped: do all hooks fire, and do shapes match?"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from worker.data.entries import describe
from worker.distill.modular import ModularModel, Outputs
from worker.distill.objective import Objective
from worker.distill.plan import Planner
from worker.distill.projection import HiddenWidths
from worker.errors import RecipeError
from worker.models.base import Batch
from worker.names import suggest
from worker.setup.models import Models
from worker.setup.own_forward import own_forward_faults
from worker.setup.vocabularies import text_fault, vocabulary_fault, with_other_texts

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Widths:
    """The tensors whose width differs between student and teacher.

    Attributes:
        hidden: Both widths, by the name of the student's layer.
        boundary: The student's width, by (module, boundary tensor).
    """

    hidden: dict[str, HiddenWidths] = field(default_factory=dict)
    boundary: dict[tuple[str, str], int] = field(default_factory=dict)


def compare_shapes(
    models: Models,
    batch: Batch,
    *,
    forced: bool,
    objective: Objective | None = None,
    vocab_size: int = 0,
    text_difference: str = "",
) -> Widths:
    """Run both models in full on a small batch and compare the shapes of their outputs.

    Args:
        models: Both models, on the CPU; they are not changed.
        batch: A few rows.
        forced: Whether the student's modules will read the teacher's boundary tensors.
        objective: The objective whose task terms the model must be able to compute; by default none is checked.
        vocab_size: The number of tokens that the data have; 0 if that is not known.
        text_difference: How the teacher's texts differ from the student's; empty if they are the same.

    Raises:
        RecipeError: A hook does not fire, shapes differ in more than the last dimension, the model does not compute a
            task term, an adapter's logits or losses are not those of the model's own forward pass, or a compared layer
            of the teacher puts out next to nothing; the message lists every fault.
    """
    student, teacher = (_outputs(modular, batch, role) for modular, role in models.both)
    faults: list[str] = []
    widths = Widths()
    for module, pairs in models.pairs.items():
        for pair in pairs:
            missing = [
                _silent_hook(models, module, modular, layer, batch, role)
                for (modular, role), layer, outputs in zip(models.both, pair, (student, teacher), strict=True)
                if layer not in outputs.hidden
            ]
            faults += missing
            if not missing:
                ours, theirs = pair
                shapes = student.hidden[ours].shape, teacher.hidden[theirs].shape
                axis = _width_axis(*shapes)
                if axis is None:
                    if objective is not None and not objective.weight(f"layers/{module}"):
                        continue
                    faults.append(_mismatch(models, module, (f"layer {ours}", f"layer {theirs}"), shapes))
                elif shapes[0] != shapes[1]:
                    widths.hidden[ours] = HiddenWidths(module, shapes[0][axis], shapes[1][axis], axis)
                faults += _misread(models, objective, module, theirs, teacher.hidden[theirs], axis, batch)
    _warn_of_repeated_calls(models)
    for module, name in _boundaries(models, student, forced):
        teacher_tensor = teacher.boundary[module].get(name)
        if teacher_tensor is None:
            faults.append(f"{_arms(models, module)}: the teacher's module {module} has no boundary tensor {name!r}")
            continue
        student_shape, teacher_shape = student.boundary[module][name].shape, teacher_tensor.shape
        if student_shape[:-1] != teacher_shape[:-1]:
            faults.append(_mismatch(models, module, (name, name), (student_shape, teacher_shape)))
        elif student_shape != teacher_shape:
            widths.boundary[module, name] = student_shape[-1]
    if text_difference:
        # Its sentence says more than shapes that differ because of it.
        other_texts = _outputs(models.student, with_other_texts(batch), "student")
        fault = text_fault(models, student, other_texts, objective, forced=forced, difference=text_difference)
        faults = [fault] if fault else faults
    elif fault := vocabulary_fault(student, teacher, objective, vocab_size):
        faults.append(fault)
    if objective is not None:
        faults += _unknown_terms(models, objective, student, batch)
        for (modular, role), outputs in zip(models.both, (student, teacher), strict=True):
            faults += own_forward_faults(modular, outputs, batch, objective, role)
        # With other faults, not every pair can be compared.
        faults += [] if faults else _faint_outputs(models, objective, student, teacher, batch)
    if faults:
        raise RecipeError("the student cannot be distilled as the recipe says:\n  " + "\n  ".join(faults))
    return widths


def _outputs(modular: ModularModel, batch: Batch, role: str) -> Outputs:
    """Run a whole model in eval mode and without gradient."""
    with evaluating(modular.model, batch, role), torch.no_grad():
        return modular.run([module.name for module in modular.adapter.modules], batch)


@contextmanager
def evaluating(model: nn.Module, batch: Batch, role: str) -> Iterator[None]:
    """Set eval mode within the block, and turn errors of the model's forward pass into sentences."""
    training = model.training
    model.eval()
    try:
        yield
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise RecipeError(
            f"the {role}'s forward pass fails on the data's batches ({describe(batch)}): {error}"
        ) from error
    finally:
        model.train(training)


def _width_axis(student: torch.Size, teacher: torch.Size) -> int | None:
    """Return the axis in which a projection makes these shapes equal; None if there is none.

    That is the last axis; for feature maps [B, C, H, W] it is 1.
    """
    if student[:-1] == teacher[:-1]:
        return -1
    is_map = len(student) >= 4
    return 1 if is_map and (student[0], student[2:]) == (teacher[0], teacher[2:]) else None


def _misread(
    models: Models,
    objective: Objective | None,
    module: str,
    layer: str,
    tensor: Tensor,
    axis: int | None,
    batch: Batch,
) -> Iterator[str]:
    """Yield a sentence if the mask or the loss of a module would take another axis of its layers for the width."""
    shape = tensor.shape
    mask = models.adapter.mask_for(module, "hidden", batch, tensor)
    if mask is not None and not _covers(mask.shape, shape[:-1]):
        yield (
            f"{_arms(models, module)}: the mask of module {module} is {list(mask.shape)}, but the layer {layer} puts "
            f"out {list(shape)}; a mask has an entry for each position, {list(shape[:-1])}: remove "
            f"modules.{module}.mask or name another entry of the batch"
        )
    is_map = axis == 1 or _is_feature_map(models.teacher.model.get_submodule(layer), shape)
    if is_map and objective is not None and objective.compares_vectors(module):
        yield (
            f"{_arms(models, module)}: the layer loss cosine compares vectors along the last axis, but the layer "
            f"{layer} puts out {list(shape)}, whose channels are not there; set loss.layer_loss: {{{module}: mse}}"
        )


def _covers(mask: torch.Size, positions: torch.Size) -> bool:
    return len(mask) == len(positions) and all(one in (1, all_) for one, all_ in zip(mask, positions, strict=True))


def _is_feature_map(layer: nn.Module, shape: torch.Size) -> bool:
    """Return whether an output is [B, C, H, W] and not [B, H, W, C], as far as can be told: its layer convolves."""
    inside = {type(module).__module__.rpartition(".")[2] for module in layer.modules()}
    if len(shape) < 4:
        # Some transformers have convolutions as well.
        return len(shape) == 3 and "conv" in inside and "linear" not in inside
    is_last = len(shape) == 4 and shape[1] == shape[2] != shape[3]
    return not is_last and bool(inside & {"conv", "batchnorm", "pooling"})


def _warn_of_repeated_calls(models: Models) -> None:
    for modular, role in models.both:
        for layer, calls in modular.calls.items():
            if calls > 1:
                log.warning(
                    "the %s calls %s %d times in a forward pass, with the same weights; its last output is compared",
                    role,
                    layer,
                    calls,
                )


def _boundaries(models: Models, student: Outputs, forced: bool) -> Iterator[tuple[str, str]]:
    """Yield the boundary tensors that are compared or, under teacher forcing, read: (module, tensor)."""
    modules = models.adapter.modules
    read = {name for module in modules for name in module.inputs or ()} if forced else set()
    for module in modules:
        for name in student.boundary[module.name]:
            if (module.name in read or name in module.matched) and (module.name, name) != models.adapter.logits:
                yield module.name, name


def _unknown_terms(models: Models, objective: Objective, student: Outputs, batch: Batch) -> Iterator[str]:
    """Yield a sentence for each named task term that the model does not compute."""
    plan = Planner(models.adapter.modules, None, "active").task()
    with torch.no_grad():
        computed = objective.task_terms(plan, models.student.model, student, batch)
    if student.logits is None and not computed:
        log.warning("the student's forward pass returns neither logits nor a loss, so only layers are compared")
    for name in objective.named:
        if name not in computed:
            hint = suggest(name, computed, "task losses that it computes")
            yield f"loss.task names {name!r}, which the model does not compute{hint}"


def _faint_outputs(
    models: Models, objective: Objective, student: Outputs, teacher: Outputs, batch: Batch
) -> Iterator[str]:
    """Yield a sentence for each of the teacher's outputs that no layer loss can be divided by."""
    for faint in objective.faint(student, teacher, batch):
        is_layer = faint.name.startswith("layer ")
        leave_out = "leave the layer out by a glob of the others under `layers`, or " if is_layer else ""
        yield (
            f"{_arms(models, faint.module)}: the teacher's {faint.name} of {faint.module} puts out next to nothing "
            f"(root mean square {faint.teacher:.1e}, the student's {faint.student:.1e}), and the layer loss mse "
            f"divides by it; {leave_out}set loss.layer_loss: {{{faint.module}: cosine}}"
        )


def _silent_hook(models: Models, module: str, modular: ModularModel, layer: str, batch: Batch, role: str) -> str:
    with _recorded_calls(modular.model) as called:
        _outputs(modular, batch, role)
    hint = suggest(layer, called, "modules that it calls", most=3)
    return (
        f"{_arms(models, module)}: the hook on the {role}'s {layer} did not fire: the forward pass does not call that "
        f"module{hint}"
    )


@contextmanager
def _recorded_calls(model: nn.Module) -> Iterator[list[str]]:
    """Record the names of the modules that are called within the block."""
    called: list[str] = []

    def recorder(name: str) -> object:
        return lambda *_: called.append(name)

    hooks = [module.register_forward_hook(recorder(name)) for name, module in model.named_modules() if name]
    try:
        yield called
    finally:
        for hook in hooks:
            hook.remove()


def _mismatch(models: Models, module: str, names: tuple[str, str], shapes: tuple[torch.Size, torch.Size]) -> str:
    return (
        f"{_arms(models, module)}: in module {module} the student's {names[0]} has the shape {list(shapes[0])} and the "
        f"teacher's {names[1]} {list(shapes[1])}; only the last dimension may differ"
    )


def _arms(models: Models, module: str) -> str:
    arms = [arm for arm, members in models.arms.items() if module in members]
    return f"arm {', '.join(arms)}" if arms else f"module {module}"
