"""The tensors of a model that are rounded when it computes in bf16."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

MASKED = -1e4
"""At or below this, a buffer's value is that of a masked position: its exact size means nothing."""


def to_dtype(model: nn.Module, dtype: torch.dtype) -> None:
    """Convert a model's parameters, and those buffers that may be rounded.

    Constants that the model computed in fp32 stay in fp32: rounded rotary frequencies turn positions by whole
    radians after a few hundred tokens (KL to the fp32 model at 2,048 tokens: .50 instead of .0036).
    """
    exact = list(exact_buffers(model, dtype))
    saved = [module._buffers[name] for module, name in exact]
    # Not the model's own method: that of transformers refuses a quantized model, whose codes are no floating point.
    nn.Module.to(model, dtype=dtype)
    for (module, name), buffer in zip(exact, saved, strict=True):
        module._buffers[name] = buffer
    if exact:
        _accept_fp32_inputs(model, dtype)


def round_buffers(model: nn.Module, dtype: torch.dtype) -> None:
    """Convert the buffers that `to_dtype` would convert, in a model whose parameters an engine converts.

    DeepSpeed leaves all buffers as they are, but the kernels of BatchNorm need statistics in the dtype of its weights.
    """
    exact = set(exact_buffers(model, dtype))
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_floating_point() and (module, name) not in exact:
                module._buffers[name] = buffer.to(dtype)
    if exact:
        _accept_fp32_inputs(model, dtype)


def exact_buffers(model: nn.Module, dtype: torch.dtype) -> Iterator[tuple[nn.Module, str]]:
    """Yield (module, name) of each buffer that must keep its dtype when the model computes in a smaller one.

    These are the buffers that rounding would change, except for attention masks, which are added to scores of the
    smaller dtype, and for buffers beside a parameter, which are used together with it, and BatchNorm's statistics,
    which its kernel uses together with the inputs.
    """
    for module in model.modules():
        if isinstance(module, _NormBase) or any(parameter is not None for parameter in module._parameters.values()):
            continue
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_floating_point() and _loses(buffer, dtype):
                yield module, name


def lossy(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return copies, on the CPU, of those floating-point tensors whose values a dtype cannot hold."""
    return {
        name: tensor.detach().cpu().clone()
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and not torch.equal(tensor.detach().to(dtype).to(tensor.dtype), tensor.detach())
    }


def _loses(buffer: Tensor, dtype: torch.dtype) -> bool:
    """Return whether a dtype cannot hold these values, other than those of masked positions."""
    if torch.finfo(dtype).bits >= torch.finfo(buffer.dtype).bits:
        return False
    rounded = buffer.to(dtype).to(buffer.dtype)
    return bool(((rounded != buffer) & (buffer > MASKED)).any())


def _accept_fp32_inputs(model: nn.Module, dtype: torch.dtype) -> None:
    """Let torch's own layers round what a constant in fp32 was added to; other layers do so themselves."""

    def rounded(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if any(isinstance(value, Tensor) and value.dtype == torch.float32 for value in inputs):
            return tuple(
                value.to(dtype) if isinstance(value, Tensor) and value.dtype == torch.float32 else value
                for value in inputs
            )
        return None

    for module in model.modules():
        if type(module).__module__.startswith("torch.nn.") and any(True for _ in module.parameters(recurse=False)):
            module.register_forward_pre_hook(rounded)
