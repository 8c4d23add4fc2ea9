"""Import paths in a recipe, ``package.module:name``: imported as Python would, from the current directory first."""

import importlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worker.errors import RecipeError
from worker.names import suggest

log = logging.getLogger(__name__)

MOVED = {
    "worker.losses": ("worker.distill.losses", "worker.models.task_losses"),
    "worker.data.caption_scores": ("worker.data.tasks.caption_scores",),
    "worker.data.coco_captions": ("worker.data.tasks.coco_captions",),
    "worker.data.digits": ("worker.data.digits.dataset",),
    "worker.data.digits_rows": ("worker.data.digits.rows",),
    "worker.data.digits_text": ("worker.data.digits.text",),
    "worker.data.nlvr2": ("worker.data.tasks.nlvr2",),
    "worker.data.published": ("worker.data.tasks.published",),
    "worker.data.snli_ve": ("worker.data.tasks.snli_ve",),
    "worker.data.task": ("worker.data.tasks.base",),
    "worker.data.vqa_accuracy": ("worker.data.tasks.vqa_accuracy",),
    "worker.data.vqa_v2": ("worker.data.tasks.vqa_v2",),
    "worker.models.hf_loader": ("worker.models.hf.loader",),
    "worker.models.open_clip_files": ("worker.models.open_clip.files",),
    "worker.models.open_clip_loader": ("worker.models.open_clip.loader",),
}
"""The modules of version 0.1 whose functions a recipe can name, and where these are now. The old paths work until
version 0.3."""


def lookup_or_import(name: str, known: Mapping[str, Any], what: str) -> Any:
    """Return a known object by its name, or import the user's own by its path.

    Args:
        name: A key of `known`, or an import path.
        known: The known objects.
        what: What the name stands for, with its article, such as "a layer loss".

    Raises:
        RecipeError: There is none; the message has the nearest name.
    """
    if name in known:
        return known[name]
    if ":" in name:
        return import_by_path(name, what)
    raise RecipeError(
        f"{name!r} is neither {what} nor the import path of one (package.module:function)"
        + suggest(name, known, "known names")
    )


def import_by_path(path: str, what: str) -> Any:
    """Import a function or class.

    Args:
        path: ``package.module:name``.
        what: What the path stands for, with its article, such as "a layer loss".

    Raises:
        RecipeError: The path is malformed, cannot be imported, or does not lead to a function or class.
    """
    module_name, _, name = path.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), name)):
        raise RecipeError(f"{path!r} is not the import path of {what}; expected package.module:name")
    try:
        for new_name in MOVED.get(module_name, ()):
            if callable(getattr(importlib.import_module(new_name), name, None)):
                log.warning("%s is now %s:%s; the old path works until version 0.3", path, new_name, name)
                module_name = new_name
                break
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise RecipeError(f"{path!r} cannot be imported in {Path.cwd()}: {error}") from error
    imported = getattr(module, name, None)
    if not callable(imported):
        functions = [one for one, value in vars(module).items() if callable(value)]
        hint = suggest(name, functions, "functions")
        raise RecipeError(f"the module {module_name} ({module.__file__}) has no function {name!r}{hint}")
    return imported
