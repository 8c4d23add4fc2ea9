"""A copy of what a round may change, to return to if the round diverges (docs/architecture.md, "The worker")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from worker.engine.engine import Engine


class RoundStart:
    """This rank's copy of its share of some modules' weights, masters and moments, of the model's buffers, and of the
    schedule. Everything else stays as it is during the round, so it need not be copied. It lies where they do if the
    device has room for two of it, which takes milliseconds, and else in host memory.

    Args:
        engine: Between two optimizer steps.
        modules: Those that the round trains.
        saved: What `state` gave an earlier process in the same round; by default the engine is copied as it is now.
    """

    def __init__(self, engine: Engine, modules: Sequence[str], saved: dict[str, Any] | None = None) -> None:
        self._engine = engine
        self._modules = tuple(modules)
        self._saved = saved or self._copy()

    def state(self) -> dict[str, Any]:
        """The copy, in host memory, to be saved with a checkpoint in the middle of the round."""
        moments = [{name: value.cpu() for name, value in some.items()} for some in self._saved["moments"]]
        return {**self._saved, "tensors": [tensor.cpu() for tensor in self._saved["tensors"]], "moments": moments}

    @torch.no_grad()
    def restore(self) -> None:
        """Put everything back. Collective: under ZeRO 3 gathered parameters are let go of, and gathered again."""
        saved = self._saved
        with self._engine.rewriting():
            for tensor, value in zip(self._engine.moved_by(self._modules), saved["tensors"], strict=True):
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
        tensors = self._engine.moved_by(self._modules)
        moments = [
            {name: torch.as_tensor(value) for name, value in states.get(master, {}).items()}
            for master in self._engine.masters(self._modules)
        ]
        every = [*tensors, *(value for some in moments for value in some.values())]
        here = self._engine.has_room(2 * sum(tensor.nbytes for tensor in every if tensor.device.type != "cpu"))

        def copy(tensor: Tensor) -> Tensor:
            return tensor.detach().clone() if here else tensor.detach().to("cpu", copy=True)

        return {
            "tensors": [copy(tensor) for tensor in tensors],
            "moments": [{name: copy(value) for name, value in some.items()} for some in moments],
            "schedule": self._engine.schedule.state(),
        }
