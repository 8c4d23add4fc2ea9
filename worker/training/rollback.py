"""A copy of what a round may change, to return to if the round diverges (docs/architecture.md, "The worker")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from worker.engine.engine import Engine


class Rollback:
    """This rank's copy of its share of some modules' weights, masters and moments, of all buffers, and of the schedule.

    Nothing else changes during the round. The copy stays on the device if that has room for two of it, which takes
    milliseconds; otherwise it goes to host memory.

    Args:
        engine: The engine, between two optimizer steps.
        modules: The modules that the round trains.
        saved: A copy from `state` of an earlier process in the same round; by default the engine is copied now.
    """

    def __init__(self, engine: Engine, modules: Sequence[str], saved: dict[str, Any] | None = None) -> None:
        self._engine = engine
        self._modules = tuple(modules)
        self._saved = saved or self._copy()

    def state(self) -> dict[str, Any]:
        """Return the copy in host memory, for a checkpoint in the middle of the round."""
        moments = [{name: value.cpu() for name, value in state.items()} for state in self._saved["moments"]]
        return {**self._saved, "tensors": [tensor.cpu() for tensor in self._saved["tensors"]], "moments": moments}

    @torch.no_grad()
    def restore(self) -> None:
        """Copy everything back. Collective: under ZeRO 3 gathered parameters are released, and gathered again."""
        saved = self._saved
        with self._engine.overwriting():
            for tensor, value in zip(self._engine.mutable_tensors(self._modules), saved["tensors"], strict=True):
                tensor.data.copy_(value)
        states = self._engine.base_optimizer.state
        for master, moments in zip(self._engine.masters(self._modules), saved["moments"], strict=True):
            if not moments:
                # Its first step was in this round.
                states.pop(master, None)
            for name, value in moments.items():
                states[master][name].copy_(value)
        self._engine.schedule.restore(saved["schedule"])

    @torch.no_grad()
    def _copy(self) -> dict[str, Any]:
        states = self._engine.base_optimizer.state
        tensors = self._engine.mutable_tensors(self._modules)
        moments = [
            {name: torch.as_tensor(value) for name, value in states.get(master, {}).items()}
            for master in self._engine.masters(self._modules)
        ]
        everything = [*tensors, *(value for state in moments for value in state.values())]
        size = sum(tensor.nbytes for tensor in everything if tensor.device.type != "cpu")
        on_device = self._engine.has_room(2 * size)

        def copy(tensor: Tensor) -> Tensor:
            return tensor.detach().clone() if on_device else tensor.detach().to("cpu", copy=True)

        return {
            "tensors": [copy(tensor) for tensor in tensors],
            "moments": [{name: copy(value) for name, value in state.items()} for state in moments],
            "schedule": self._engine.schedule.state(),
        }
