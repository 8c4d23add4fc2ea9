"""A frozen model sharded over all ranks: ZeRO 3 without an optimizer.

A module's parameters are gathered when it is called and released afterwards, while those of the next module are
prefetched: between two calls a rank holds its own shard only. DeepSpeed predicts the next module from the previous
call; when that call ran other modules, as in the first steps of a round, parameters are gathered only when needed.

With ``offload`` the shards lie in (pinned) host memory. Each rank copies its shard to the device, where the ranks
gather it, so that N ranks of a node move each weight over the bus once, not N times. This is what ``placement: cpu``
means; the model does not run on the CPU, because the arithmetic of a large teacher takes a CPU far longer than the
copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import deepspeed
import torch
from deepspeed.runtime.zero import parameter_offload
from deepspeed.utils import set_z3_leaf_modules
from torch import nn

from worker.distill.modular import ModularModel, Outputs
from worker.distill.teacher import Run
from worker.models.base import Batch, Boundary


class _ModularForward(nn.Module):
    """Runs a model's modules within one forward call, since that is what ZeRO 3 hooks into."""

    def __init__(self, modular: ModularModel) -> None:
        super().__init__()
        self.model = modular.model
        self._modular = modular

    def forward(self, modules: Sequence[str], batch: Batch, known: Mapping[str, Boundary]) -> tuple[Any, ...]:
        """Return the fields of `Outputs` as plain containers: DeepSpeed looks for tensors in those only."""
        return tuple(vars(self._modular.run(modules, batch, known=known)).values())


def let_go(engine: Any, modules: Iterable[nn.Module]) -> None:
    """Release what ZeRO 3 has gathered for these PyTorch modules when their forward is left by an exception.

    A pass that ends behind an arm leaves the forward of every module around it; DeepSpeed's own hook runs only if a
    forward returns.

    Args:
        engine: DeepSpeed's engine at stage 3.
        modules: Modules whose forward may be left early.
    """
    offload = getattr(engine.optimizer, "parameter_offload", engine.optimizer)

    def release(module: nn.Module, _args: Any, _output: Any) -> None:
        if parameter_offload.FWD_MODULE_STACK[-1:] == [module]:
            parameter_offload.FWD_MODULE_STACK.pop()
            offload.post_sub_module_forward_function(module)

    for module in modules:
        module.register_forward_hook(release, always_call=True)


def shard(modular: ModularModel, device: torch.device, *, offload: bool) -> Run:
    """Shard a model's parameters over all ranks; collective, as is every call of the returned function.

    Args:
        modular: A frozen model on the CPU, whole and the same on every rank, in the dtype that it computes in.
        device: The device that it computes on.
        offload: Whether the shards lie in host memory.
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
        # Its forward reads the parameters of its child itself, so both are gathered together.
        set_z3_leaf_modules(modular.model, [nn.MultiheadAttention])
    wrapper = _ModularForward(modular)
    for parameter in modular.model.parameters(recurse=False):
        deepspeed.zero.register_external_parameter(wrapper, parameter)
    engine, _, _, _ = deepspeed.initialize(model=wrapper, config=config, dist_init_required=False)
    engine.eval()
    let_go(engine, modular.enclosing)

    def run(modules: Sequence[str], batch: Batch, known: Mapping[str, Boundary]) -> Outputs:
        if not modules:
            return Outputs({}, {})
        outputs = Outputs(*engine(modules, batch, known))
        # Parameters that were prefetched for modules which did not run this time would stay gathered.
        engine.empty_partition_cache()
        return outputs

    return run
