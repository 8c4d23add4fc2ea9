"""Data modules by name, or by where a user's own is: ``package.module:factory``."""

import difflib
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from worker.data.base import Batch, DataModule, DataModuleFactory, Rows
from worker.data.digits import build_digits

__all__ = ["DATA_MODULES", "Batch", "DataModule", "DataModuleFactory", "Rows", "build"]

DATA_MODULES: dict[str, DataModuleFactory] = {"digits": build_digits}


def build(name: str, options: Mapping[str, Any] | None = None) -> DataModule:
    """The data module of that name, or by that factory, with the given options.

    Raises:
        ValueError: Unknown name or option, or a value out of range; the sentence says which.
    """
    factory = _imported(name) if ":" in name else DATA_MODULES.get(name)
    if factory is None:
        near = difflib.get_close_matches(name, DATA_MODULES, n=3, cutoff=0.4) or sorted(DATA_MODULES)
        raise ValueError(f"there is no data module {name!r}; did you mean {', '.join(near)}?")
    return factory(options or {})


def _imported(name: str) -> DataModuleFactory:
    """A user's own factory, found as Python finds any module: in the current directory first."""
    path, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*path.split("."), attribute)):
        raise ValueError(f"{name!r} does not name a factory; expected package.module:factory")
    try:
        module = importlib.import_module(path)
    except ImportError as error:
        raise ValueError(f"{name!r} cannot be imported in {Path.cwd()}: {error}") from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        near = difflib.get_close_matches(attribute, dir(module), n=1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"the module {path} ({module.__file__}) has no function {attribute!r}{meant}")
    return cast(DataModuleFactory, factory)
