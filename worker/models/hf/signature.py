"""The way in which a PyTorch module is built: classes and plain attributes, without weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

Signature = dict[str, tuple[str, dict[str, Any]]]
"""Class and plain attributes of each module, by name."""

_OF_ITS_PLACE = re.compile(
    r"(^|_)(idx|index|id|number|training|gradient_checkpointing)$|^name_or_path$|drop|has_relative_(attention|position)_bias"
)
"""Attributes of a layer that may differ from its source's: its number, and noise in training."""
SHARED_MODULE = re.compile(r"(^|\.)(relative_attention_bias|rel_attn_embed)$")
"""Modules that the first layer holds on behalf of all."""


def compare_layers(model: nn.Module, student: nn.Module, stack: str, numbers: Sequence[int]) -> list[str]:
    """Return where layers of a student are built unlike the layers they come from, as texts."""
    differences = []
    for index, number in enumerate(numbers):
        student_layer, source_layer = layer_signature(student, stack, index), layer_signature(model, stack, number)
        faults = differing(student_layer, source_layer, numbers=(index, number))
        differences += [f"layer {index}, from {number}: {fault}" for fault in faults]
    return differences


def layer_signature(model: nn.Module, stack: str, number: int) -> Signature:
    """Return a layer's signature without lists: some layers hold those of the whole stack (GPT-Neo)."""
    layer = signature(model.get_submodule(f"{stack}.{number}"))
    return {
        name: (kind, {key: value for key, value in values.items() if not isinstance(value, list | tuple)})
        for name, (kind, values) in layer.items()
    }


def signature(module: nn.Module) -> Signature:
    """Return the class and the plain attributes of a module and of every module in it, by name."""
    return {
        name: (
            type(inside).__name__,
            {
                key: value
                for key, value in vars(inside).items()
                if not key.startswith("_") and not _OF_ITS_PLACE.search(key) and _is_plain(value)
            },
        )
        for name, inside in module.named_modules()
    }


def differing(actual: Signature, expected: Signature, numbers: tuple[int, int] | None = None) -> Iterator[str]:
    """Yield the differences of two signatures.

    Args:
        actual: One.
        expected: The other.
        numbers: The numbers of the two layers, which each may hold under any name.
    """
    for name in [*actual, *(name for name in expected if name not in actual)]:
        if SHARED_MODULE.search(name):
            continue
        if name not in actual or name not in expected:
            # Its own modules differ with it.
            if name.rpartition(".")[0] in actual.keys() & expected.keys():
                yield f"{'no ' if name not in actual else ''}{name}"
            continue
        (kind, values), (expected_kind, expected_values) = actual[name], expected[name]
        if kind != expected_kind:
            yield f"{name or 'it'} is a {kind} instead of a {expected_kind}"
            continue
        for key in sorted(values.keys() | expected_values.keys()):
            value, expected_value = values.get(key), expected_values.get(key)
            if value != expected_value and (value, expected_value) != numbers:
                yield f"{'.'.join(filter(None, (name, key)))} is {value!r} instead of {expected_value!r}"


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(entry) for entry in value)
    return value is None or isinstance(value, bool | int | float | str)
