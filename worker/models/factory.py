"""Models of a user's own, by the import path of what builds them: ``package.module:factory``.

A factory returns an ``nn.Module`` that is called as worker/models/generic.py says; or such a module and an
``worker.models.base.Adapter`` of the user's own, which knows what feeds what and so allows ``train: forced``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from worker.errors import RecipeError
from worker.imports import imported
from worker.models.base import Adapter, Loaded, patterns
from worker.models.cut import LayerSelection, check_keep
from worker.models.folders import resolve_path
from worker.models.generic import GenericAdapter
from worker.models.paths import matching_modules
from worker.models.weights import STUDENT_FILE, check_names, load_weights, read_weights, write_tensors


@dataclass(frozen=True)
class FactoryModel(Loaded):
    """What a factory built, or what was cut from it."""

    model: nn.Module
    adapter: Adapter
    weights: str

    def cut(self, keep: Mapping[str, int], adapter: Adapter) -> FactoryModel:
        """Takes layers out of the model's own stacks (``nn.ModuleList`` or ``nn.Sequential``).

        A model that reads its depth from elsewhere than its stack cannot be cut so; give it a factory instead.
        """
        layers = {
            module.name: [name for glob in patterns(module.layers) for name in matching_modules(self.model, glob)]
            for module in adapter.modules
        }
        check_keep(keep, {module: len(names) for module, names in layers.items()}, type(self.model).__name__)
        student = copy.deepcopy(self.model)
        for stack, numbers in LayerSelection(layers, keep).origins.items():
            whole = student.get_submodule(stack)
            if not isinstance(whole, nn.ModuleList | nn.Sequential):
                raise RecipeError(
                    f"student.keep: {stack} is a {type(whole).__name__}; layers can be taken out of a ModuleList or "
                    "Sequential. Build the student by a factory: student.model"
                )
            kept = [whole[number] for number in numbers]
            student.set_submodule(
                stack, nn.ModuleList(kept) if isinstance(whole, nn.ModuleList) else nn.Sequential(*kept)
            )
        return FactoryModel(student.train(), self.adapter, "cut from the teacher")

    def export(self, state: Mapping[str, Tensor], directory: Path) -> Path:
        """``factory().load_state_dict(safetensors.torch.load_file("DIRECTORY/student.safetensors"))`` gives it back."""
        check_names(state, self.model.state_dict())
        write_tensors(state, directory / STUDENT_FILE)
        return directory / STUDENT_FILE


def load(spec: str, *, checkpoint: str | None, options: Mapping[str, Any], directory: Path) -> FactoryModel:
    """Call a factory with the options, and load weights if a file of them is given.

    Raises:
        RecipeError: There is no such factory, it refuses the options or builds no module, or the weights do not fit.
    """
    factory = imported(spec, "a model's factory")
    try:
        built = factory(**options)
    except (TypeError, ValueError) as error:
        shown = ", ".join(f"{name}={value!r}" for name, value in options.items())
        raise RecipeError(f"{spec}({shown}) fails: {error}") from error
    model, adapter = built if isinstance(built, tuple) and len(built) == 2 else (built, GenericAdapter())
    if not isinstance(model, nn.Module) or not isinstance(adapter, Adapter):
        raise RecipeError(
            f"{spec} returns a {type(built).__name__}; expected a torch.nn.Module, or one and an Adapter "
            "(worker/models/base.py)"
        )
    weights = f"made by {spec}"
    if checkpoint is not None:
        file = resolve_path(directory, checkpoint)
        load_weights(model, read_weights(file), str(file))
        weights = f"from {file}"
    return FactoryModel(model.cpu().float().train().requires_grad_(True), adapter, weights)
