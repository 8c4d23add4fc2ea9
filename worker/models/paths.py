"""Dotted globs of a model's PyTorch modules and parameters."""

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from types import MappingProxyType

from torch import nn

from worker.errors import RecipeError
from worker.models.base import Adapter, Patterns, patterns
from worker.names import suggest


def matching_modules(model: nn.Module, pattern: str) -> list[str]:
    """Return the names of the PyTorch modules that match a dotted glob, in the model's order.

    ``*`` matches within one component of the path: ``visual.transformer.resblocks.*`` matches the blocks but not the
    modules inside them.

    Raises:
        RecipeError: Nothing matches; the message has the nearest names.
    """
    names = [name for name, _ in model.named_modules() if name]
    globs = pattern.split(".")
    matching = [name for name in names if _matches(name.split("."), globs)]
    if not matching:
        hint = suggest(pattern.replace("*", "0"), names, "modules", most=3)
        raise RecipeError(
            f"module path {pattern!r} matches nothing in {type(model).__name__}{hint} (--list-modules prints all)"
        )
    return matching


def layer_names(
    model: nn.Module, adapter: Adapter, overrides: Mapping[str, Patterns] = MappingProxyType({})
) -> dict[str, list[str]]:
    """Return the names of each module's layers, in order.

    Args:
        model: The model.
        adapter: Its adapter.
        overrides: Globs of a module's layers that replace the adapter's.

    Raises:
        RecipeError: A glob matches nothing.
    """
    return {
        module.name: [
            name
            for glob in patterns(overrides.get(module.name, module.layers))
            for name in matching_modules(model, glob)
        ]
        for module in adapter.modules
    }


def check_owned(model: nn.Module, path: Patterns) -> None:
    """Raise RecipeError unless every one of these dotted globs matches a PyTorch module or a single parameter."""
    for pattern in patterns(path):
        if not _named_parameters(model, pattern):
            matching_modules(model, pattern)


def _named_parameters(model: nn.Module, pattern: str) -> list[nn.Parameter]:
    """Return the parameters whose own names match."""
    globs = pattern.split(".")
    named = model.named_parameters(remove_duplicate=False)
    return [parameter for name, parameter in named if _matches(name.split("."), globs)]


def parameters_of(model: nn.Module, path: Patterns) -> Iterator[nn.Parameter]:
    """Yield all parameters that a module owns, in the order of its paths."""
    for pattern in patterns(path):
        own = _named_parameters(model, pattern)
        yield from own
        if not own:
            for name in matching_modules(model, pattern):
                yield from model.get_submodule(name).parameters()


def owned_modules(model: nn.Module, path: Patterns) -> list[str]:
    """Return the names of the PyTorch modules that a module owns; some of its patterns may name parameters instead."""
    return [
        name
        for pattern in patterns(path)
        if not _named_parameters(model, pattern)
        for name in matching_modules(model, pattern)
    ]


def _matches(name: Sequence[str], globs: Sequence[str]) -> bool:
    """Return whether the components of a dotted name match the globs, one for each component."""
    return len(name) == len(globs) and all(fnmatchcase(part, glob) for part, glob in zip(name, globs, strict=True))
