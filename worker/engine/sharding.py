"""A frozen model of which every rank holds its share: ZeRO 3 without an optimizer.

A module's parameters are gathered when it is called, the next ones' while it computes, and let go of after it: between
two calls a rank holds its share and no more. What is called next DeepSpeed foresees from the call before; where that
was of other modules, as in the first steps of a round, it gathers everything when it is needed.

With ``offload`` the shares lie in (pinned) host memory: a rank copies its share to the device and the ranks gather it
there, so N ranks of a node move each weight through the bus once and not N times. That, and not running the model on
the CPU, is what ``placement: cpu`` means: the arithmetic of a large teacher takes a CPU far longer than the copy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import deepspeed
import torch
from deepspeed.utils import set_z3_leaf_modules
from torch import nn

from worker.distill.modular import ModularModel, Outputs
from worker.models.base import Batch, Boundary

Run = Callable[[Sequence[str], Batch, Mapping[str, Boundary]], Outputs]


class _Called(nn.Module):
    """Runs a model's modules within one call, which is what ZeRO 3 watches."""

    def __init__(self, modular: ModularModel) -> None:
        super().__init__()
        self.model = modular.model
        self._modular = modular

    def forward(self, modules: Sequence[str], batch: Batch, known: Mapping[str, Boundary]) -> tuple[Any, ...]:
        # Plain containers: DeepSpeed looks for tensors in them.
        return tuple(vars(self._modular.run(modules, batch, known=known)).values())


def partitioned(modular: ModularModel, device: torch.device, *, offload: bool) -> Run:
    """Part a model's parameters among all ranks; collective, as is every call of what is returned.

    Args:
        modular: A frozen model on the CPU, whole and the same on every rank, in the type that it computes in.
        device: Where it computes.
        offload: Whether the shares lie in host memory.
    """
    dtype = next(modular.model.parameters()).dtype
    zero: dict[str, object] = {"stage": 3, "stage3_param_persistence_threshold": 0}
    if offload:
        zero["offload_param"] = {"device": "cpu", "pin_memory": device.type != "cpu"}
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "steps_per_print": 10**9,
        "zero_optimization": zero,
        "bf16": {"enabled": dtype == torch.bfloat16},
    }
    # One parameter after the other: the device never holds the whole model.
    deepspeed.zero.Init(module=modular.model, config_dict_or_path=config, dtype=dtype)
    for buffer in modular.model.buffers():
        buffer.data = buffer.data.to(device)
    if any(isinstance(module, nn.MultiheadAttention) for module in modular.model.modules()):
        # It reads its child's parameters itself, so they are gathered with its own.
        set_z3_leaf_modules(modular.model, [nn.MultiheadAttention])
    called = _Called(modular)
    for parameter in modular.model.parameters(recurse=False):
        deepspeed.zero.register_external_parameter(called, parameter)
    engine, _, _, _ = deepspeed.initialize(model=called, config=config, dist_init_required=False)
    engine.eval()

    def run(modules: Sequence[str], batch: Batch, known: Mapping[str, Boundary]) -> Outputs:
        if not modules:
            return Outputs({}, {})
        outputs = Outputs(*engine(modules, batch, known))
        # What was gathered ahead for modules that were not run this time would stay.
        engine.empty_partition_cache()
        return outputs

    return run
