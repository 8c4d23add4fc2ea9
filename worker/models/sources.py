"""Where a model comes from, by what a recipe calls it. A family's libraries are imported only when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from worker.errors import RecipeError
from worker.models.base import Fresh, Loaded

FORMS = "open_clip:<name, path or hf-hub:id>[@<pretrained>], hf:<id or path>, or package.module:factory"


def load(
    spec: str,
    *,
    checkpoint: str | None = None,
    options: Mapping[str, Any] | None = None,
    directory: Path = Path(),
    fresh: Fresh = "never",
) -> Loaded:
    """Build a model and load its weights.

    Args:
        spec: One of `FORMS`.
        checkpoint: A file of weights to load, all of them and nothing else; by default those that come with what
            ``spec`` names.
        options: A factory's keyword arguments; of transformers' models, fields of their configuration, and which of
            their weights are meant (``variant``, ``revision``, ``subfolder``).
        directory: Where relative paths start.
        fresh: Whether the weights may be fresh; a factory alone answers for its own.

    Raises:
        RecipeError: The spec means nothing, there are no weights, or they do not fit the model.
    """
    family, separator, source = spec.partition(":")
    if not (family and separator and source):
        raise RecipeError(f"{spec!r} names no model; expected {FORMS}")
    if family == "open_clip":
        if options:
            raise RecipeError(f"{spec} takes no options; change its configuration instead")
        from worker.models.open_clip import loader as open_clip_loader

        return open_clip_loader.load(spec, checkpoint=checkpoint, directory=directory, fresh=fresh)
    if family == "hf":
        from worker.models.hf import loader as hf_loader

        return hf_loader.load(source, checkpoint=checkpoint, options=options or {}, directory=directory, fresh=fresh)
    if fresh == "always":
        raise RecipeError(f"{spec} answers for its own weights; leave out `weights: random`")
    from worker.models import factory

    return factory.load(spec, checkpoint=checkpoint, options=options or {}, directory=directory)
