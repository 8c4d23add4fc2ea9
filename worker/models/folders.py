"""Files of a model: the resolution of a recipe's paths, and the weight files of a folder."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path, PurePosixPath

from worker.errors import RecipeError

_WEIGHTS = re.compile(
    r"\.(safetensors|bin|pt|pth|ckpt|h5|keras|msgpack|gguf|ggml|npz|onnx|onnx_data|distcp|tflite|mlmodel|ot|nemo)$|\.index(\.[^.]+)?\.json$"
)
_OF_TRAINING = re.compile(r"^(training_args|optimizer|scheduler|scaler|rng_state)\b")
"""Files of the training state, which the transformers library writes next to the weights."""


def resolve_path(directory: Path, name: str | Path) -> Path:
    """Resolve a path of a recipe: absolute, in the home directory (``~``), or relative to ``directory``."""
    path = Path(name)
    # If there is no such home directory, ``~name`` is an ordinary name.
    with suppress(RuntimeError):
        path = path.expanduser()
    return directory / path


def is_weights(name: str) -> bool:
    """Return whether a file of this name, or at this path, holds weights in any format."""
    base = PurePosixPath(name).name
    return bool(_WEIGHTS.search(base)) and not _OF_TRAINING.search(base)


def weight_files(folder: Path) -> list[str]:
    """Return the sorted names of the files that hold weights, in any format, in a folder and its subfolders."""
    inside = [folder, *(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))]
    return sorted(
        str(path.relative_to(folder))
        for place in inside
        for path in place.iterdir()
        if is_weights(path.name) and not path.is_dir()
    )


def join_names(names: list[str]) -> str:
    """Join names for a message, at most eight of them."""
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more


def no_weights_error(spec: str, looked: str) -> RecipeError:
    """Return the error for a model without weights if fresh ones were not asked for.

    Args:
        spec: The model in the recipe.
        looked: Where weights were looked for, and what was found there.
    """
    return RecipeError(
        f"{spec} has no weights: {looked}. Name a file of weights as `checkpoint`, or ask for random ones with "
        "`weights: random`"
    )
