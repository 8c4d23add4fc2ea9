"""Dotted globs of a model's modules and parameters."""

import difflib
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from torch import nn

from worker.errors import RecipeError
from worker.models.base import Patterns, patterns


def matching_modules(model: nn.Module, pattern: str) -> list[str]:
    """Names of the model's modules that match a dotted glob, in the model's order.

    ``*`` stands for anything within one component of the path: ``visual.transformer.resblocks.*`` matches the
    blocks and not what is inside them.

    Raises:
        RecipeError: Nothing matches; names the nearest.
    """
    names = [name for name, _ in model.named_modules() if name]
    wanted = pattern.split(".")
    found = [name for name in names if _matches(name.split("."), wanted)]
    if not found:
        near = difflib.get_close_matches(pattern.replace("*", "0"), names, n=3, cutoff=0.4)
        raise RecipeError(
            f"module path {pattern!r} matches nothing in {type(model).__name__}; the nearest names are "
            f"{', '.join(near) or 'none'} (--list-modules prints all)"
        )
    return found


def check_owned(model: nn.Module, path: Patterns) -> None:
    """Raise RecipeError unless every one of these dotted globs names a module or a parameter that stands by itself."""
    for pattern in patterns(path):
        if not _named_parameters(model, pattern):
            matching_modules(model, pattern)


def _named_parameters(model: nn.Module, pattern: str) -> list[nn.Parameter]:
    """The parameters whose own names match."""
    wanted = pattern.split(".")
    named = model.named_parameters(remove_duplicate=False)
    return [parameter for name, parameter in named if _matches(name.split("."), wanted)]


def parameters_of(model: nn.Module, path: Patterns) -> Iterator[nn.Parameter]:
    """All parameters that a module owns, in the order of its paths."""
    for pattern in patterns(path):
        own = _named_parameters(model, pattern)
        yield from own
        if not own:
            for name in matching_modules(model, pattern):
                yield from model.get_submodule(name).parameters()


def _matches(name: Sequence[str], wanted: Sequence[str]) -> bool:
    return len(name) == len(wanted) and all(fnmatchcase(n, w) for n, w in zip(name, wanted, strict=True))
