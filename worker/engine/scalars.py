"""Parameters without dimensions, such as CLIP's logit scale: DeepSpeed gets them with the shape [1].

``deepspeed.initialize`` fails on a parameter without dimensions at every ZeRO stage, whether it is trained or not.
While the model computes, it finds such a parameter as it made it: a view without dimensions, through which the gradient
flows. The exported weights have its own shape as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

Scalars = Mapping[str, Sequence[str]]
"""The names of parameters without dimensions, by the name of the PyTorch module that has them."""


def flatten_scalars(model: nn.Module) -> Scalars:
    """Give the parameters without dimensions the shape [1], and return their names."""
    scalars: dict[str, list[str]] = {}
    for module_name, module in model.named_modules(remove_duplicate=False):
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.ndim == 0:
                scalars.setdefault(module_name, []).append(name)
    for module_name, names in scalars.items():
        for name in names:
            parameter = model.get_submodule(module_name).get_parameter(name)
            parameter.data = parameter.data.view(1)
    return scalars


def full_names(scalars: Scalars) -> set[str]:
    """Return the dotted names of the parameters in the model."""
    return {f"{module}.{name}" if module else name for module, names in scalars.items() for name in names}


def view_scalars(wrapper: nn.Module, model: nn.Module, scalars: Scalars) -> None:
    """Let the model see its flattened parameters without dimensions whenever it runs.

    Called after DeepSpeed has registered its own hooks, since ZeRO 3 gathers parameters in them.

    Args:
        wrapper: The PyTorch module that DeepSpeed calls and whose forward pass runs the model.
        model: The model.
        scalars: From `flatten_scalars`.
    """
    for module_name, names in scalars.items():
        module = model.get_submodule(module_name)
        # The model's own parameters are also read by its adapter, outside of the model's forward pass.
        runs = wrapper if module is model else module
        runs.register_forward_pre_hook(_showing(module, names))
        runs.register_forward_hook(_hiding(module, names), always_call=True)


def _showing(module: nn.Module, names: Sequence[str]) -> Any:
    def show(*_: Any) -> None:
        for name in names:
            # Python looks here before it asks nn.Module for a parameter.
            parameter = module._parameters[name]
            assert parameter is not None
            module.__dict__[name] = parameter.view(())

    return show


def _hiding(module: nn.Module, names: Sequence[str]) -> Any:
    def hide(*_: Any) -> None:
        for name in names:
            module.__dict__.pop(name, None)

    return hide
