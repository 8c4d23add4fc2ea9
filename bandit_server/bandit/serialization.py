"""What a policy remembers: a copy of it; or as plain JSON values, and back."""

from __future__ import annotations

import base64
import math
from collections import deque
from typing import Any

import numpy as np

_OURS = __name__.rpartition(".")[0]
_UNCHANGING = frozenset({type(None), bool, int, float, str})


def dump(value: Any) -> Any:
    """A policy, or a part of what it remembers, as JSON values; numbers that JSON lacks as their names."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else {"float": repr(value)}
        case np.generic():
            return dump(value.item())
        case np.ndarray():
            # As their bytes: exact, and ten times as fast as numbers in words.
            told = base64.b64encode(value.astype(value.dtype.newbyteorder("<")).tobytes()).decode()
            return {"array": told, "dtype": value.dtype.newbyteorder("<").str, "shape": list(value.shape)}
        case list():
            return [dump(item) for item in value]
        case tuple():
            return {"tuple": [dump(item) for item in value]}
        case deque():
            return {"deque": [dump(item) for item in value], "maxlen": value.maxlen}
        case dict():
            return {"dict": [[dump(key), dump(item)] for key, item in value.items()]}
    if not type(value).__module__.startswith(_OURS):
        raise TypeError(f"a policy remembers a {type(value).__qualname__}, which cannot be written down")
    return {"object": {name: dump(item) for name, item in vars(value).items()}}


def load(into: Any, dumped: Any) -> Any:
    """The value that `dump` has written down. `into`: one of the same make, which objects are restored into."""
    if isinstance(dumped, list):
        return [load(None, item) for item in dumped]
    if not isinstance(dumped, dict):
        return dumped
    match dumped:
        case {"float": str(name)}:
            return float(name)
        case {"array": str(told), "dtype": str(dtype), "shape": list(shape)}:
            given = np.frombuffer(base64.b64decode(told, validate=True), dtype=dtype).reshape(shape)
            return given.astype(given.dtype.newbyteorder("="))
        case {"tuple": list(items)}:
            return tuple(load(None, item) for item in items)
        case {"deque": list(items), "maxlen": maxlen}:
            return deque((load(None, item) for item in items), maxlen=maxlen)
        case {"dict": list(items)}:
            return {load(None, key): load(None, item) for key, item in items}
        case {"object": dict(parts)} if into is not None and set(parts) == set(vars(into)):
            for name, part in parts.items():
                setattr(into, name, load(getattr(into, name), part))
            return into
    raise ValueError("this is not what a policy of this name and version has written down")


def copied(value: Any) -> Any:
    """A policy, or a part of what it remembers, that goes its own way from now on. Several times as fast as deepcopy,
    which has to allow for anything."""
    kind = type(value)
    if kind in _UNCHANGING:
        return value
    if kind is np.ndarray:
        return value.copy()
    if kind is list:
        return [copied(item) for item in value]
    if kind is tuple:
        return tuple([copied(item) for item in value])
    if kind is deque:
        return deque((copied(item) for item in value), maxlen=value.maxlen)
    if kind is dict:
        return {key: copied(item) for key, item in value.items()}
    if not kind.__module__.startswith(_OURS):
        raise TypeError(f"a policy remembers a {kind.__qualname__}, which cannot be copied")
    other = object.__new__(kind)
    vars(other).update({name: copied(item) for name, item in vars(value).items()})
    return other
