"""The source of a model, by its name in a recipe. A family's libraries are imported only when they are needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from worker.errors import RecipeError
from worker.models.base import Fresh, Loaded, Role

FORMS = "open_clip:<name, path or hf-hub:id>[@<pretrained>], hf:<id or path>, or package.module:factory"


def load(
    spec: str,
    *,
    checkpoint: str | None = None,
    options: Mapping[str, Any] | None = None,
    directory: Path = Path(),
    fresh: Fresh = "never",
    role: Role = "teacher",
) -> Loaded:
    """Build a model and load its weights.

    Args:
        spec: One of `FORMS`.
        checkpoint: A file of weights to load, which must fit exactly; by default the weights of ``spec``.
        options: A factory's keyword arguments; for a model of transformers, fields of its configuration, and the
            choice of its weights and code (``variant``, ``revision``, ``subfolder``, ``trust_remote_code`` and others).
        directory: The directory that relative paths start from.
        fresh: Whether the weights may be fresh; does not apply to factories, which make their own.
        role: What the model is for.

    Raises:
        RecipeError: The spec names no model, there are no weights, or they do not fit the model.
    """
    family, separator, source = spec.partition(":")
    if not (family and separator and source):
        raise RecipeError(f"{spec!r} does not name a model; expected {FORMS}")
    if family == "open_clip":
        if options:
            raise RecipeError(f"{spec} takes no options; edit its configuration instead")
        from worker.models.open_clip import loader as open_clip_loader

        return open_clip_loader.load(spec, checkpoint=checkpoint, directory=directory, fresh=fresh)
    if family == "hf":
        from worker.models.hf import loader as hf_loader

        return hf_loader.load(
            source, checkpoint=checkpoint, options=options or {}, directory=directory, fresh=fresh, role=role
        )
    if fresh == "always":
        raise RecipeError(f"{spec} is a factory, which makes its own weights; remove `weights: random`")
    from worker.models import factory

    return factory.load(spec, checkpoint=checkpoint, options=options or {}, directory=directory)


def outline(spec: str, *, options: Mapping[str, Any] | None = None, directory: Path = Path()) -> Loaded:
    """Build a model for its structure alone: without its weights and, unless a factory makes it, without memory.

    Args:
        spec: One of `FORMS`.
        options: As for `load`.
        directory: The directory that relative paths start from.

    Raises:
        RecipeError: The spec names no model.
    """
    family, _, source = spec.partition(":")
    if family == "open_clip" and source:
        from worker.models.open_clip import loader as open_clip_loader

        return open_clip_loader.outline(spec, directory)
    if family == "hf" and source:
        fields = {name: value for name, value in (options or {}).items() if name != "variant"}
        # transformers loads its own models in this way.
        with torch.device("meta"):
            return load(spec, options=fields, directory=directory, fresh="always")
    return load(spec, options=options, directory=directory)
