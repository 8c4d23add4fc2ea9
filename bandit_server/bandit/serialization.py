"""The state of a policy: a copy of it, or plain JSON values and back."""

from __future__ import annotations

import base64
import math
from collections import deque
from typing import Any

import numpy as np

_PACKAGE = __name__.rpartition(".")[0]
_IMMUTABLE = frozenset({type(None), bool, int, float, str})


def dump(value: Any) -> Any:
    """Return a policy, or a part of its state, as JSON values. Numbers that JSON lacks are written as their names."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else {"float": repr(value)}
        case np.generic():
            return dump(value.item())
        case np.ndarray():
            # Bytes are exact, and ten times as fast as decimal numbers.
            encoded = base64.b64encode(value.astype(value.dtype.newbyteorder("<")).tobytes()).decode()
            return {"array": encoded, "dtype": value.dtype.newbyteorder("<").str, "shape": list(value.shape)}
        case list():
            return [dump(item) for item in value]
        case tuple():
            return {"tuple": [dump(item) for item in value]}
        case deque():
            return {"deque": [dump(item) for item in value], "maxlen": value.maxlen}
        case dict():
            return {"dict": [[dump(key), dump(item)] for key, item in value.items()]}
    if not type(value).__module__.startswith(_PACKAGE):
        raise TypeError(f"the state of a policy has a {type(value).__qualname__}, which cannot be written as JSON")
    return {"object": {name: dump(item) for name, item in vars(value).items()}}


def load(into: Any, dumped: Any) -> Any:
    """Return the value that `dump` has written.

    Args:
        into: An object of the same class and arguments; objects are restored in place.
        dumped: The result of `dump`.

    Raises:
        ValueError: It was not written by `dump` for an object like `into`.
    """
    if isinstance(dumped, list):
        return [load(None, item) for item in dumped]
    if not isinstance(dumped, dict):
        return dumped
    match dumped:
        case {"float": str(name)}:
            return float(name)
        case {"array": str(encoded), "dtype": str(dtype), "shape": list(shape)}:
            array = np.frombuffer(base64.b64decode(encoded, validate=True), dtype=dtype).reshape(shape)
            return array.astype(array.dtype.newbyteorder("="))
        case {"tuple": list(items)}:
            return tuple(load(None, item) for item in items)
        case {"deque": list(items), "maxlen": maxlen}:
            return deque((load(None, item) for item in items), maxlen=maxlen)
        case {"dict": list(items)}:
            return {load(None, key): load(None, item) for key, item in items}
        case {"object": dict(attributes)} if into is not None and set(attributes) == set(vars(into)):
            for name, item in attributes.items():
                setattr(into, name, load(getattr(into, name), item))
            return into
    raise ValueError("this is not the state of a policy of this name and version")


def clone(value: Any) -> Any:
    """Return an independent copy of a policy, or of a part of its state.

    Several times as fast as deepcopy, which must allow for any type.
    """
    kind = type(value)
    if kind in _IMMUTABLE:
        return value
    if kind is np.ndarray:
        return value.copy()
    if kind is list:
        return [clone(item) for item in value]
    if kind is tuple:
        return tuple([clone(item) for item in value])
    if kind is deque:
        return deque((clone(item) for item in value), maxlen=value.maxlen)
    if kind is dict:
        return {key: clone(item) for key, item in value.items()}
    if not kind.__module__.startswith(_PACKAGE):
        raise TypeError(f"the state of a policy has a {kind.__qualname__}, which cannot be copied")
    other = object.__new__(kind)
    vars(other).update({name: clone(item) for name, item in vars(value).items()})
    return other
