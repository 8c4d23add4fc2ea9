"""A user's own models, by the import path of their factory: ``package.module:factory``.

A factory returns a PyTorch module that follows the protocol in worker/models/generic.py. It may return an adapter
(``worker.models.base.Adapter``) with it, which declares what each module reads, and runs it alone.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from worker.errors import RecipeError
from worker.files import replace_all
from worker.imports import import_by_path
from worker.models.base import Adapter, Loaded
from worker.models.cut import LayerSelection
from worker.models.folders import resolve_path
from worker.models.generic import GenericAdapter
from worker.models.weights import STUDENT_FILE, check_names, load_weights, read_weights, write_tensors


@dataclass(frozen=True)
class FactoryModel(Loaded):
    """A model from a factory, or a student cut from one (``is_cut``)."""

    model: nn.Module
    adapter: Adapter
    weights: str
    is_cut: bool = False

    def cut(self, keep: Mapping[str, int], adapter: Adapter) -> FactoryModel:
        """Cut a student by removing layers from the model's stacks (``nn.ModuleList`` or ``nn.Sequential``).

        This does not work for a model that takes its depth from anything but its stacks; its student needs a factory.
        """
        student = copy.deepcopy(self.model)
        for stack, numbers in LayerSelection(self.model, adapter, keep).origins.items():
            module_list = student.get_submodule(stack)
            if not isinstance(module_list, nn.ModuleList | nn.Sequential):
                raise RecipeError(
                    f"{stack} is a {type(module_list).__name__}; layers can be removed only from a "
                    "ModuleList or Sequential. Build the student by a factory instead: student.model"
                )
            remaining = [module_list[number] for number in numbers]
            is_list = isinstance(module_list, nn.ModuleList)
            student.set_submodule(stack, nn.ModuleList(remaining) if is_list else nn.Sequential(*remaining))
        if not any(parameter.requires_grad for parameter in student.parameters()):
            # A teacher's factory that freezes all of it says nothing about a student.
            student.requires_grad_(True)
        return FactoryModel(student.train(), self.adapter, "cut from the teacher", is_cut=True)

    def export(self, state: Mapping[str, Tensor], directory: Path) -> Path:
        """Write the state dict of the model that the factory builds: ``student.safetensors``.

        The adapter of a model that peft has wrapped is also written as peft does. Not that of a student that was cut:
        its configuration names the whole base model, whose layers have other numbers.
        """
        check_names(state, self.model.state_dict())

        def write(path: Path) -> None:
            write_tensors(state, path / STUDENT_FILE)
            if not self.is_cut:
                _write_adapter(self.model, state, path)

        replace_all(directory, write)
        return directory / STUDENT_FILE


def _write_adapter(model: nn.Module, state: Mapping[str, Tensor], directory: Path) -> None:
    """Write the adapter of a model that peft has wrapped, if it is one."""
    # Only who wraps a model has imported peft.
    peft: Any = sys.modules.get("peft")
    if peft is not None and isinstance(model, peft.PeftModel):
        with warnings.catch_warnings():
            # Peft compares the vocabulary with the base model's on the hub, and warns if it cannot.
            warnings.simplefilter("ignore", UserWarning)
            model.save_pretrained(str(directory), state_dict=dict(state))
        (directory / "README.md").unlink(missing_ok=True)


def load(spec: str, *, checkpoint: str | None, options: Mapping[str, Any], directory: Path) -> FactoryModel:
    """Call a factory with its options, and load weights if there is a checkpoint.

    Args:
        spec: The import path of the factory.
        checkpoint: A file of weights to load; by default the model keeps the weights that the factory gave it.
        options: The factory's keyword arguments.
        directory: The directory that relative paths start from.

    Raises:
        RecipeError: There is no such factory, it rejects the options or does not return a PyTorch module, or the
            weights do not fit.
    """
    factory = import_by_path(spec, "a model's factory")
    try:
        built = factory(**options)
    except (TypeError, ValueError) as error:
        arguments = ", ".join(f"{name}={value!r}" for name, value in options.items())
        raise RecipeError(f"{spec}({arguments}) failed: {error}") from error
    model, adapter = built if isinstance(built, tuple) and len(built) == 2 else (built, GenericAdapter())
    if not isinstance(model, nn.Module) or not isinstance(adapter, Adapter):
        raise RecipeError(
            f"{spec} returns a {type(built).__name__}; expected a torch.nn.Module, or a pair of such a module and an "
            "Adapter (worker/models/base.py)"
        )
    weights = f"made by {spec}"
    if checkpoint is not None:
        file = resolve_path(directory, checkpoint)
        load_weights(model, read_weights(file), str(file))
        weights = f"from {file}"
    return FactoryModel(model.cpu().float().train(), adapter, weights)
