"""One module of the engine's student, read and written whole, whatever DeepSpeed has made of its parameters.

DeepSpeed keeps a parameter's fp32 master and moments in one of three ways, all of them *fragments* of the parameter's
elements in a row: the whole of it (stage 0), this rank's part of a flat tensor over many parameters (stages 1 and 2),
or this rank's equal share of the parameter (stage 3).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from worker.engine.engine import Engine
from worker.exchange.module_state import ModuleState

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class _Fragment:
    """This rank's fragment of one parameter.

    Attributes:
        shape: The whole parameter's shape.
        first: The first of the parameter's elements in it.
        count: How many elements this rank has; 0 if it has none.
        master: The tensor that the optimizer updates, which contains the fragment; None if this rank has none.
        at: The fragment's place in `master`.
        divided: Whether other ranks have the parameter's other elements; the same on every rank.
    """

    shape: torch.Size
    first: int
    count: int
    master: Tensor | None
    at: int
    divided: bool = True

    def view(self, tensor: Tensor) -> Tensor:
        """Return the fragment's part of the master, or of a moment of it."""
        return tensor.detach().flatten().narrow(0, self.at, self.count)

    def whole(self, choose: Callable[[Tensor], Tensor | None]) -> Tensor:
        """Return the whole parameter or moment, on the CPU; collective.

        Args:
            choose: Returns the master, or its moment, for a master; None for zeros.
        """
        numel = self.shape.numel()
        device = self.master.device if self.master is not None else torch.device("cpu")
        full = torch.zeros(numel, dtype=torch.float32, device=device)
        source = None if self.master is None else choose(self.master)
        if source is not None:
            # The last rank's share may be padded.
            count = min(self.count, numel - self.first)
            if count > 0:
                full[self.first : self.first + count] = self.view(source)[:count]
        if self.divided:
            dist.all_reduce(full)
        return full.view(self.shape).cpu()

    def fill(self, target: Tensor, whole: Tensor) -> None:
        """Copy this rank's elements of a whole parameter, or moment, into the master or its moment."""
        count = max(0, min(self.count, whole.numel() - self.first))
        if count:
            self.view(target)[:count].copy_(whole.flatten()[self.first : self.first + count])


def read_module(engine: Engine, module: str, rounds: int) -> ModuleState:
    """Return a module, whole, on every rank; collective, between two optimizer steps.

    Args:
        engine: The engine.
        module: The module.
        rounds: Rounds that it has been trained for.
    """
    states = engine.base_optimizer.state
    weights: dict[str, Tensor] = {}
    moments: dict[str, dict[str, Tensor]] = {moment: {} for moment in MOMENTS}
    steps = engine.schedule.module_steps.get(module, 0)
    for name, parameter in engine.parameters_of(module).items():
        fragment = _fragment(engine, parameter)
        weights[name] = fragment.whole(lambda master: master)
        for moment in MOMENTS if steps else ():
            moments[moment][name] = fragment.whole(lambda master, moment=moment: states[master].get(moment))  # type: ignore[misc]
    return ModuleState(weights, {}, moments if steps else {}, rounds, steps)


@torch.no_grad()
def write_module(engine: Engine, module: str, state: ModuleState) -> None:
    """Replace a module; collective, between two optimizer steps.

    Args:
        engine: The engine.
        module: The module.
        state: Its new state, whole, on every rank.
    """
    states = engine.base_optimizer.state
    with engine.overwriting():
        for name, parameter in engine.parameters_of(module).items():
            fragment, whole = _fragment(engine, parameter), state.weights[name]
            _write_weights(parameter, fragment, whole)
            if fragment.master is None:
                continue
            fragment.fill(fragment.master, whole)
            if not state.steps:
                states.pop(fragment.master, None)
                continue
            known = states[fragment.master]
            for moment in MOMENTS:
                if moment not in known:
                    known[moment] = torch.zeros_like(fragment.master, memory_format=torch.preserve_format)
                fragment.fill(known[moment], state.moments[moment][name])
            known["step"] = torch.full((), float(state.steps), dtype=torch.float32, device=fragment.master.device)
    engine.schedule.module_steps[module] = state.steps


def _write_weights(parameter: Any, fragment: _Fragment, whole: Tensor) -> None:
    """Write the weights that the forward pass reads."""
    if hasattr(parameter, "ds_tensor"):
        share = parameter.ds_tensor.data
        count = max(0, min(fragment.count, whole.numel() - fragment.first))
        share[:count].copy_(whole.flatten()[fragment.first : fragment.first + count])
    else:
        parameter.data.copy_(whole)


def _fragment(engine: Engine, parameter: Any) -> _Fragment:
    outer, groups = engine.outer_optimizer, engine.base_optimizer.param_groups
    if hasattr(parameter, "ds_tensor"):
        group, at, count = outer.grad_position[outer.get_param_id(parameter)]
        first = count * dist.get_rank(group=parameter.ds_process_group)
        return _Fragment(parameter.ds_shape, first, count, outer.fp32_partitioned_groups_flat[group], at)
    if not hasattr(parameter, "_hp_mapping"):
        master = _whole_master(outer, parameter)
        return _Fragment(parameter.shape, 0, parameter.numel(), master, 0, divided=False)
    mapping = parameter._hp_mapping
    if mapping is None:
        return _Fragment(parameter.shape, 0, 0, None, 0)
    own, flat = mapping.lp_fragment_address, mapping.hp_fragment_address
    master = groups[mapping.param_group_index]["params"][0]
    return _Fragment(parameter.shape, own.start, own.numel, master, flat.start)


def _whole_master(outer: Any, parameter: Tensor) -> Tensor:
    """Return the fp32 copy of a parameter at stage 0 in bf16; in fp32 the optimizer updates the parameter itself."""
    for halves, masters in zip(getattr(outer, "fp16_groups", ()), getattr(outer, "fp32_groups", ()), strict=True):
        for half, master in zip(halves, masters, strict=True):
            if half is parameter:
                found: Tensor = master
                return found
    return parameter
