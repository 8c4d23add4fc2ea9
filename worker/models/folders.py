"""Files of a model: where a recipe's paths lead, and which files of a folder hold weights."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from worker.errors import RecipeError

_WEIGHTS = re.compile(
    r"\.(safetensors|bin|pt|pth|ckpt|h5|keras|msgpack|gguf|ggml|npz|onnx|distcp|tflite)$|\.index(\.[^.]+)?\.json$"
)
_OF_TRAINING = re.compile(r"^(training_args|optimizer|scheduler|scaler|rng_state)\b")
"""Files of a training's state, which the transformers library writes beside the weights."""


def resolve_path(directory: Path, name: str | Path) -> Path:
    """A path of a recipe: absolute, in the home directory (``~``), or relative to ``directory``."""
    path = Path(name)
    # What only looks like somebody's home directory is a name like others.
    with suppress(RuntimeError):
        path = path.expanduser()
    return directory / path


def weight_files(folder: Path) -> list[str]:
    """The files of a folder, and of the folders in it, that hold weights, in whatever format: their names, sorted."""
    inside = [folder, *(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))]
    return sorted(
        str(path.relative_to(folder))
        for place in inside
        for path in place.iterdir()
        if _WEIGHTS.search(path.name) and not _OF_TRAINING.search(path.name) and not path.is_dir()
    )


def join_names(names: list[str]) -> str:
    """Some names for a sentence: at most eight of them."""
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more


def no_weights_error(spec: str, looked: str) -> RecipeError:
    """The error of a model that comes without weights, where fresh ones were not asked for.

    Args:
        spec: What the recipe calls the model.
        looked: Where weights were looked for, and what was there.
    """
    return RecipeError(
        f"{spec} comes with no weights: {looked}. Name a file of weights as `checkpoint`, or ask for fresh ones, which "
        "know nothing: `weights: random`"
    )
