"""The entries of a batch: tensors, alone or in containers, and anything else that a model's forward pass reads."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from torch import Tensor


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Apply a function to every tensor in a value.

    Args:
        function: Called with each tensor.
        value: A tensor, or any nesting of mappings, lists, tuples and dataclasses; it is not changed.

    Returns:
        The same nesting with the results; everything else in it is passed on as it is.
    """
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return _filled(value, {name: map_tensors(function, entry) for name, entry in value.items()})
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(function, entry) for entry in value))
    if type(value) in (list, tuple):
        return type(value)(map_tensors(function, entry) for entry in value)
    if is_dataclass(value) and not isinstance(value, type):
        entries = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
        return replace(value, **{name: map_tensors(function, entry) for name, entry in entries.items()})
    return value


def _filled(mapping: Mapping[Any, Any], entries: dict[Any, Any]) -> Any:
    """Return a mapping of the same kind with these entries, or a dict if such a mapping cannot be changed."""
    if type(mapping) is dict or not isinstance(mapping, MutableMapping):
        return entries
    filled = copy.copy(mapping)
    filled.update(entries)
    return filled


def repeat_rows(value: Any, rows: int, times: int) -> Any:
    """Repeat each row of an entry, one after the other.

    Args:
        value: A tensor or list with as many rows as the batch, or a mapping of such. Anything else, such as tensors of
            another length, belongs to the batch as a whole and is passed on as it is.
        rows: The number of rows in the batch.
        times: How often each row is to be in the result.
    """
    if isinstance(value, Tensor):
        return value.repeat_interleave(times, 0) if value.ndim and len(value) == rows else value
    if isinstance(value, Mapping):
        return _filled(value, {name: repeat_rows(entry, rows, times) for name, entry in value.items()})
    if type(value) in (list, tuple) and len(value) == rows:
        return type(value)(entry for entry in value for _ in range(times))
    return value


def describe(batch: Mapping[str, Any]) -> str:
    """Return the names of a batch's entries with their shapes or kinds, for messages."""
    return ", ".join(f"{name} {_kind(value)}" for name, value in batch.items()) or "nothing"


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return str(list(value.shape))
    if isinstance(value, Mapping):
        return f"{{{describe(value)}}}"
    if isinstance(value, list | tuple):
        return f"({type(value).__name__} of {len(value)})"
    return f"({type(value).__name__})"
