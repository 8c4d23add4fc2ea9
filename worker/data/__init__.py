"""Data modules by name."""

import difflib
from collections.abc import Mapping
from typing import Any

from worker.data.base import Batch, DataModule, DataModuleFactory, Rows
from worker.data.digits import build_digits

__all__ = ["DATA_MODULES", "Batch", "DataModule", "DataModuleFactory", "Rows", "build"]

DATA_MODULES: dict[str, DataModuleFactory] = {"digits": build_digits}


def build(name: str, options: Mapping[str, Any] | None = None) -> DataModule:
    """The data module of that name with the given options.

    Raises:
        ValueError: Unknown name or option, or a value out of range; the sentence says which.
    """
    factory = DATA_MODULES.get(name)
    if factory is None:
        near = difflib.get_close_matches(name, DATA_MODULES, n=3, cutoff=0.4) or sorted(DATA_MODULES)
        raise ValueError(f"there is no data module {name!r}; did you mean {', '.join(near)}?")
    return factory(options or {})
