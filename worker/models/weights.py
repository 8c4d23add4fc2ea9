"""Files of weights: read without executing code from them, and loaded completely or not at all."""

import re
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from worker.errors import RecipeError
from worker.files import replace

STUDENT_FILE = "student.safetensors"
_CONTAINERS = ("state_dict", "model_state_dict", "model", "module")
"""Entries of a training program's checkpoint that hold the model's tensors."""
_WRAPPERS = re.compile(r"(^|\.)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Names of modules that torch's wrappers put between others."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read tensors by name from a safetensors file, or from a torch file, of which only tensors are read.

    Raises:
        RecipeError: The file does not exist or is neither.
    """
    if not path.is_file():
        raise RecipeError(f"the checkpoint {path} does not exist")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise RecipeError(f"{path} cannot be read as weights: {error}") from error
    for name in _CONTAINERS:
        state = state[name] if isinstance(state, dict) and isinstance(state.get(name), dict) else state
    if not (isinstance(state, dict) and all(isinstance(value, Tensor) for value in state.values())):
        raise RecipeError(f"{path} is not a file of weights; expected tensors by name")
    return dict(state)


def unwrapped(state: Mapping[str, Tensor], expected: AbstractSet[str]) -> dict[str, Tensor]:
    """Return tensors under a model's own names, as far as they follow from its names in a wrapper or another version.

    Wrappers are torch's (data parallel, compile, FSDP, activation checkpointing) and any module that holds the model
    under one name, as a trainer does. The other version is that of torch's weight norm.
    """
    plain = {name if name in expected else _WRAPPERS.sub(r"\1", name): value for name, value in state.items()}
    first = next(iter(plain), "")
    for prefix in [first[: match.end()] for match in re.finditer(r"\.", first)]:
        if not expected & plain.keys() and all(name.startswith(prefix) for name in plain):
            stripped = {name.removeprefix(prefix): value for name, value in plain.items()}
            plain = stripped if expected & stripped.keys() else plain
    for old, new in (("weight_g", "original0"), ("weight_v", "original1")):
        renamed = {name: name.removesuffix(old) + f"parametrizations.weight.{new}" for name in plain}
        plain = {renamed[name] if renamed[name] in expected else name: value for name, value in plain.items()}
    return plain if len(plain) == len(state) else dict(state)


def load_weights(model: nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    """Load weights whose names and shapes are exactly those of the model.

    Args:
        model: The model.
        state: Its tensors by name; of tied tensors one name is enough.
        origin: Where they come from, for the message.

    Raises:
        RecipeError: Names or shapes differ; the message names them.
    """
    expected = model.state_dict()
    state = unwrapped(state, expected.keys())
    state = {**_tied(model, state), **state}
    # By default open_clip writes the logit scale as a scalar.
    state = {
        name: value.reshape(expected[name].shape)
        if name in ("logit_scale", "logit_bias") and name in expected and value.numel() == 1
        else value
        for name, value in state.items()
    }
    faults = [
        _fault("missing", [name for name in expected if name not in state]),
        _fault("unexpected", [name for name in state if name not in expected]),
        _fault(
            "of another shape",
            [
                f"{name} {list(value.shape)} instead of {list(expected[name].shape)}"
                for name, value in state.items()
                if name in expected and value.shape != expected[name].shape
            ],
        ),
        _fault(
            "of another type",
            [
                f"{name} {value.dtype} instead of {expected[name].dtype}"
                for name, value in state.items()
                if name in expected and _misread(value.dtype, expected[name].dtype)
            ],
        ),
    ]
    if any(faults):
        raise RecipeError(f"{origin} does not fit the model: {'; '.join(filter(None, faults))}")
    model.load_state_dict(state, strict=True)


def _misread(dtype: torch.dtype, expected: torch.dtype) -> bool:
    """Return whether values of a dtype would not be what they are in another: codes of a quantization, or complex."""
    if expected.is_floating_point:
        return not dtype.is_floating_point
    return dtype.is_complex and not expected.is_complex


def _tied(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tied tensors under all of their names: some libraries write a tied tensor once."""
    named = list(model.named_parameters(remove_duplicate=False))
    tensors = {id(parameter): state[name] for name, parameter in named if name in state}
    return {name: tensors[id(parameter)] for name, parameter in named if id(parameter) in tensors}


def _fault(kind: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{kind}: {', '.join(names[:5])}{more}"


def check_names(state: Mapping[str, Tensor], expected: Iterable[str]) -> None:
    """Raise ValueError unless these are exactly the names of the model's tensors, with none of the worker's own."""
    strays = sorted(set(expected) ^ set(state))
    if strays:
        names = ", ".join(strays[:5])
        raise ValueError(f"the student's tensors are not those of its configuration; the names differ in {names}")


def write_tensors(state: Mapping[str, Tensor], target: Path) -> None:
    """Write a safetensors file atomically."""
    # Copies: safetensors refuses tensors that share memory.
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in state.items()}
    replace(target, lambda path: save_file(tensors, path, metadata={"format": "pt"}))
