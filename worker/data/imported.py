"""What a user names by where it is: ``package.module:name``."""

import difflib
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast


def imported(name: str) -> Callable[..., Any]:
    """A user's own function, found as Python finds any module: in the current directory first.

    Raises:
        ValueError: It is not there; the sentence says what is missing.
    """
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
    return cast(Callable[..., Any], factory)
