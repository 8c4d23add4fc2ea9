"""Weights in files: read without running what a file holds, and loaded whole or not at all."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from worker.errors import RecipeError
from worker.files import replace

STUDENT_FILE = "student.safetensors"


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name from a safetensors file, or from a torch file, of which only tensors are read.

    Raises:
        RecipeError: The file is missing or is neither.
    """
    if not path.is_file():
        raise RecipeError(f"there is no checkpoint {path}")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise RecipeError(f"{path} holds no weights that can be read: {error}") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not (isinstance(state, dict) and all(isinstance(value, Tensor) for value in state.values())):
        raise RecipeError(f"{path} holds no weights: expected tensors by name")
    return dict(state)


def unwrapped(state: Mapping[str, Tensor], expected: Collection[str]) -> dict[str, Tensor]:
    """The tensors under a model's own names: what torch's data parallel wrappers write begins with ``module.``."""
    wrapped = state.keys() - expected
    if wrapped == state.keys() and all(name.startswith("module.") for name in wrapped):
        return {name.removeprefix("module."): value for name, value in state.items()}
    return dict(state)


def load_weights(model: nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    """Load weights, all of them and nothing else.

    Raises:
        RecipeError: Names or shapes differ; the sentence names them.
    """
    expected = model.state_dict()
    state = unwrapped(state, expected.keys())
    state = {**_under_other_names(model, state), **state}
    # A scalar logit scale is what open_clip writes by default.
    state = {
        name: value.reshape(expected[name].shape)
        if name in ("logit_scale", "logit_bias") and name in expected and value.numel() == 1
        else value
        for name, value in state.items()
    }
    faults = [
        _named("missing", [name for name in expected if name not in state]),
        _named("unexpected", [name for name in state if name not in expected]),
        _named(
            "of another shape",
            [
                f"{name} {list(value.shape)} instead of {list(expected[name].shape)}"
                for name, value in state.items()
                if name in expected and value.shape != expected[name].shape
            ],
        ),
    ]
    if any(faults):
        raise RecipeError(f"{origin} does not fit the model: {'; '.join(filter(None, faults))}")
    model.load_state_dict(state, strict=True)


def _under_other_names(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is missing but is tied to something that is there: some libraries write a tied tensor once."""
    named = list(model.named_parameters(remove_duplicate=False))
    there = {id(parameter): state[name] for name, parameter in named if name in state}
    return {name: there[id(parameter)] for name, parameter in named if id(parameter) in there}


def _named(fault: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{fault}: {', '.join(names[:5])}{more}"


def check_names(state: Mapping[str, Tensor], expected: Iterable[str]) -> None:
    """Raise ValueError unless these are the names of the model's tensors: something of ours would be among them."""
    strays = sorted(set(expected) ^ set(state))
    if strays:
        names = ", ".join(strays[:5])
        raise ValueError(f"the student's tensors are not those of its configuration; they differ in {names}")


def write_tensors(state: Mapping[str, Tensor], target: Path) -> None:
    """A safetensors file; it appears whole or not at all."""
    # Copies: safetensors refuses tensors that share memory.
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in state.items()}
    replace(target, lambda path: save_file(tensors, path, metadata={"format": "pt"}))
