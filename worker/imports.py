"""What a recipe names by where it is, ``package.module:name``; found as Python finds any module, in the current
directory first."""

import difflib
import importlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worker.errors import RecipeError

log = logging.getLogger(__name__)

MOVED = {"worker.losses:answer": "worker.models.task_losses:answer"}
"""Names that recipes of version 0.1 use, and what they are now. They go on working until version 0.3."""


def known_or_imported(name: str, known: Mapping[str, Any], what: str) -> Any:
    """One of the known ones by its name, or a user's own by its import path.

    Raises:
        RecipeError: There is none; names the nearest.
    """
    if name in known:
        return known[name]
    if ":" in name:
        return imported(name, what)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"the names are {', '.join(known)}"
    raise RecipeError(f"{name!r} is not {what}; {hint} Or give the import path of your own: package.module:function")


def imported(name: str, what: str) -> Any:
    """The function or class of an import path.

    Raises:
        RecipeError: It is none, or cannot be imported.
    """
    if name in MOVED:
        log.warning("%s is now %s; the old name works until version 0.3", name, MOVED[name])
        name = MOVED[name]
    path, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*path.split("."), attribute)):
        raise RecipeError(f"{name!r} does not name {what}; expected package.module:name")
    try:
        module = importlib.import_module(path)
    except ImportError as error:
        raise RecipeError(f"{name!r} cannot be imported in {Path.cwd()}: {error}") from error
    found = getattr(module, attribute, None)
    if not callable(found):
        near = difflib.get_close_matches(attribute, dir(module), n=1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise RecipeError(f"the module {path} ({module.__file__}) has no function {attribute!r}{meant}")
    return found
