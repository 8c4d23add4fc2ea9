"""The frozen teacher, which runs the modules that a plan needs, without gradient."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from worker.data.entries import map_tensors
from worker.distill.modular import ModularModel, Outputs
from worker.models.base import Batch, Boundary
from worker.models.precision import to_dtype

Run = Callable[[Sequence[str], Batch, Mapping[str, Boundary]], Outputs]
"""(modules, batch, known) -> their outputs, as in `ModularModel.run`."""
Placement = Callable[[ModularModel, torch.device], Run]
"""Moves a frozen model from the CPU to its devices and returns the function that runs it."""


class Teacher:
    """The teacher. It is never a child of the student, so no optimizer or checkpoint contains it.

    Args:
        modular: The teacher model; it is frozen and moved to its devices here.
        device: The device on which it computes.
        dtype: The type that the student computes in, which is the type of the outputs.
        computes: The type that the teacher computes in; by default the same.
        placement: Places its weights; by default every rank has all of them on its device.
    """

    def __init__(
        self,
        modular: ModularModel,
        device: torch.device,
        dtype: torch.dtype,
        *,
        computes: torch.dtype | None = None,
        placement: Placement | None = None,
    ) -> None:
        self.modular = modular
        self._dtype, self._computes = dtype, computes or dtype
        to_dtype(modular.model, self._computes)
        modular.model.eval().requires_grad_(False)
        self._run = (placement or _replicated)(modular, device)

    # no_grad, not inference_mode: tensors made under the latter cannot be a student's inputs or targets.
    @torch.no_grad()
    def run(self, modules: Sequence[str], batch: Batch, known: Mapping[str, Boundary] | None = None) -> Outputs:
        """Run modules and return their outputs.

        Args:
            modules: Names of the modules, each after its inputs.
            batch: The model's inputs.
            known: The teacher's own boundary tensors of modules that need not be run again.
        """
        known = known or {}
        if self._computes == self._dtype:
            return self._run(modules, batch, known)
        known = {module: _in(self._computes, tensors) for module, tensors in known.items()}
        outputs = self._run(modules, _in(self._computes, batch), known)
        boundary = {module: _in(self._dtype, tensors) for module, tensors in outputs.boundary.items()}
        logits = None if outputs.logits is None else outputs.logits.to(self._dtype)
        return replace(outputs, boundary=boundary, hidden=_in(self._dtype, outputs.hidden), logits=logits)

    @property
    def modules(self) -> tuple[str, ...]:
        """The names of all modules, in order."""
        return tuple(module.name for module in self.modular.adapter.modules)


def _replicated(modular: ModularModel, device: torch.device) -> Run:
    modular.model.to(device)
    return lambda modules, batch, known: modular.run(modules, batch, known=known)


def _in(dtype: torch.dtype, entries: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: map_tensors(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor, entry)
        for name, entry in entries.items()
    }
