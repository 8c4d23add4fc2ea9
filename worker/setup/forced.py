"""``train: forced`` for models without declared inputs: who reads whom is found on a few rows, and proved.

Each model is run by its own forward pass, with stand-ins for all modules but one (worker/distill/stand_ins.py). Before
anything is trained, every module of either model is computed among stand-ins that answer with the model's own outputs:
it must put out what it puts out in the model's own forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from worker.distill.found import FoundAdapter
from worker.distill.modular import ModularModel, Outputs
from worker.distill.reads import Reads, find_reads, owners
from worker.distill.stand_ins import StandIns, encoded
from worker.errors import RecipeError
from worker.models.base import Batch, ModuleSpec
from worker.setup.models import Models
from worker.setup.shape_check import evaluating


def with_stand_ins(models: Models, batch: Batch) -> Models:
    """Return the models with declared inputs.

    Args:
        models: Both models, on the CPU, before any engine wraps them. Their units are prepared to stand in.
        batch: A few rows.

    Raises:
        RecipeError: A model does not compute the same with stand-ins, or student and teacher do not fit each other.
    """
    ours, theirs = (_find(modular, batch, role) for modular, role in models.both)
    counterparts = _match(models, ours, theirs)
    maker = ours.maker if ours.maker == theirs.maker else None
    inputs = {module: ours.inputs[module] | theirs.inputs[module] for module in ours.inputs}
    order = [module.name for module in models.adapter.modules]
    student_names = {name: [name] for name in counterparts}
    teacher_names = {
        teacher_name: [name for name, other in counterparts.items() if other == teacher_name]
        for teacher_name in counterparts.values()
    }
    each = zip(models.both, (ours, theirs), (student_names, teacher_names), strict=True)
    for (modular, _), reads, names in each:
        stand_ins = _stand_ins(modular)
        stand_ins.names, stand_ins.spare, stand_ins.outputs = names, reads.spare, reads.outputs
        if reads.maker is not None and maker is None:
            compared = {(spec.name, name) for spec in modular.adapter.modules for name in spec.matched}
            stand_ins.outputs[reads.maker] &= compared
    modules = tuple(
        replace(module, inputs=tuple(name for name in order if name in inputs[module.name]), matched=())
        for module in models.adapter.modules
    )
    for modular, _ in models.both:
        modular.adapter = FoundAdapter(modular.adapter, modules, maker)
    whole = _whole(models.student, batch)
    modules = tuple(_with_matched(models, module, ours.read[module.name], whole) for module in modules)
    for modular, _ in models.both:
        modular.adapter = FoundAdapter(_stand_ins(modular).adapter, modules, maker)
    return replace(models, adapter=models.student.adapter)


def _stand_ins(modular: ModularModel) -> StandIns:
    assert modular.stand_ins is not None
    return modular.stand_ins


def _find(modular: ModularModel, batch: Batch, role: str) -> Reads:
    """Prepare a model's units to stand in, and find out what its modules read."""
    modular.stand_ins = StandIns(modular.model, modular.adapter, owners(modular.model, modular.adapter))
    with evaluating(modular.model, batch, role):
        return find_reads(modular.stand_ins, modular.entries(batch))


def _match(models: Models, ours: Reads, theirs: Reads) -> dict[str, str]:
    """Return the teacher's tensor for each one of the student that its modules read."""
    names: dict[str, str] = {}
    for module, needed in ours.needed.items():
        read, teacher_read = ours.read[module], theirs.read[module]
        # In order: what the teacher reads of its layer 22 the student may read of its layer 2.
        paired = dict(zip(read, teacher_read, strict=False)) if len(read) == len(teacher_read) else {}
        found = {name: paired.get(name) or _counterpart(models, module, name) for name in needed}
        names |= found
        if not set(found.values()) <= theirs.boundary[module].keys():
            raise RecipeError(
                f"train: forced: other modules read {len(read)} tensors of {module} in the student "
                f"({', '.join(read)}) and {len(teacher_read)} in the teacher ({', '.join(teacher_read)}); use train: "
                "active or all"
            )
    return names


def _counterpart(models: Models, module: str, name: str) -> str:
    """Return the name that a tensor of the student has in the teacher, whose layer is the compared one."""
    for layer, teacher_layer in models.pairs[module]:
        if name == layer or name.startswith((f"{layer}.", f"{layer}:", f"{layer}#")):
            return teacher_layer + name[len(layer) :]
    return name


def _with_matched(models: Models, module: ModuleSpec, read: Sequence[str], whole: Outputs) -> ModuleSpec:
    """Add the tensors of a module that are compared: those that others read and that are not a compared layer's."""
    tensors = {name: whole.boundary[module.name][name] for name in read}
    own = next(spec for spec in _stand_ins(models.student).adapter.modules if spec.name == module.name)
    own_names = [encoded(module.name, name) for name in own.matched]
    compared = [whole.hidden[layer] for layer, _ in models.pairs[module.name] if layer in whole.hidden]
    compared += [whole.boundary[module.name][name] for name in own_names]
    found = [
        name
        for name, tensor in tensors.items()
        if tensor.is_floating_point()
        and tensor.ndim > 1
        and not any(other.shape == tensor.shape and torch.equal(other, tensor) for other in compared)
    ]
    return replace(module, matched=(*found, *own_names))


def _whole(modular: ModularModel, batch: Batch) -> Outputs:
    with torch.random.fork_rng(devices=[]), evaluating(modular.model, batch, "model"), torch.no_grad():
        return modular.run([module.name for module in modular.adapter.modules], batch)
