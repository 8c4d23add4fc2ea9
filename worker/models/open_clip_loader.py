"""Models of open_clip, by what a recipe calls them: ``open_clip:<name or path>``."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from worker.errors import RecipeError
from worker.models.open_clip_files import (
    Config,
    create,
    load_weights,
    read_config,
    read_weights,
    weights_beside,
)

FAMILY = "open_clip"


@dataclass(frozen=True)
class Loaded:
    """A model and what it was built from.

    Attributes:
        model: On the CPU, in fp32, in train mode, every parameter trainable.
        config: Its open_clip ``model_cfg``.
    """

    model: nn.Module
    config: Config


def load(spec: str, *, checkpoint: str | Path | None = None, directory: Path = Path()) -> Loaded:
    """Build a model and load its weights.

    Args:
        spec: ``open_clip:`` and the name of one of its configurations, or the path of a JSON file or
            directory.
        checkpoint: Weights to load, all of them and nothing else. By default those in the directory that
            ``spec`` names; where there are none the weights are fresh, from torch's global random state.
        directory: Where relative paths start.

    Raises:
        RecipeError: The spec means nothing, or the weights do not fit the model.
    """
    source = _source(spec)
    config = read_config(source, directory)
    model = create(config)
    weights = weights_beside(source, directory) if checkpoint is None else directory / checkpoint
    if weights is not None:
        load_weights(model, read_weights(weights), str(weights))
    return Loaded(model.train(), config)


def _source(spec: str) -> str:
    family, _, source = spec.partition(":")
    if family != FAMILY or not source:
        raise RecipeError(f"a model is named {FAMILY}:<name or path>; {spec!r} is not")
    return source
