"""The frozen teacher: runs the modules a plan needs, without gradient."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from worker.distill.modular import ModularModel, Outputs
from worker.models.base import Batch, Boundary

Run = Callable[[Sequence[str], Batch, Mapping[str, Boundary]], Outputs]
"""(modules, batch, known) -> what the modules put out; see ModularModel.run."""
Placement = Callable[[ModularModel, torch.device], Run]
"""Puts a frozen model on the CPU where it is to be, and returns what runs it; see worker/engine/sharding.py."""


class Teacher:
    """A model that only answers. Never a child of the student, so no optimizer or checkpoint ever sees it.

    Args:
        modular: The teacher, taken apart; moved to its place and frozen here.
        device: Where it computes.
        dtype: What the student computes in: the type of the outputs.
        computes: What it computes in; by default the same.
        placement: Where its weights lie; by default whole on the device of every rank.
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
        modular.model.to(dtype=self._computes).eval().requires_grad_(False)
        self._run = (placement or _whole)(modular, device)

    # no_grad, not inference_mode: tensors made under the latter cannot be a student's inputs or targets.
    @torch.no_grad()
    def run(self, modules: Sequence[str], batch: Batch, known: Mapping[str, Boundary] | None = None) -> Outputs:
        """Outputs of the given modules; every module's inputs must be among them, or among what is known."""
        known = known or {}
        if self._computes == self._dtype:
            return self._run(modules, batch, known)
        there = {module: _in(self._computes, tensors) for module, tensors in known.items()}
        outputs = self._run(modules, _in(self._computes, batch), there)
        boundary = {module: _in(self._dtype, tensors) for module, tensors in outputs.boundary.items()}
        logits = None if outputs.logits is None else outputs.logits.to(self._dtype)
        return replace(outputs, boundary=boundary, hidden=_in(self._dtype, outputs.hidden), logits=logits)

    @property
    def modules(self) -> tuple[str, ...]:
        """The names of all modules, in order."""
        return tuple(module.name for module in self.modular.adapter.modules)


def _whole(modular: ModularModel, device: torch.device) -> Run:
    modular.model.to(device)
    return lambda modules, batch, known: modular.run(modules, batch, known=known)


def _in(dtype: torch.dtype, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
