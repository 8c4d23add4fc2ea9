"""Configurations and weights of open_clip's models, in files and by name.

A directory is in open_clip's own layout, which ``open_clip.create_model("local-dir:DIRECTORY")`` reads too:
``open_clip_config.json`` with ``model_cfg`` and ``preprocess_cfg``, beside it one file of weights.
"""

import copy
import difflib
import hashlib
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import nn

from worker.errors import RecipeError

CONFIG_FILE = "open_clip_config.json"

Config = dict[str, Any]


def read_config(source: str, base_dir: Path) -> Config:
    """The ``model_cfg`` of a model.

    Args:
        source: A directory or a JSON file, absolute or relative to ``base_dir``, or a name open_clip knows.
        base_dir: Where relative paths start.

    Raises:
        RecipeError: Nothing goes by that name, or the file is no configuration of a model.
    """
    path = base_dir / source
    if path.is_dir():
        path /= CONFIG_FILE
    if path.is_file():
        return _parse(path)
    config = open_clip.get_model_config(source)
    if config is None:
        near = difflib.get_close_matches(source, open_clip.list_models(), n=3, cutoff=0.5)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise RecipeError(f"there is no open_clip model {source!r}, and neither a file nor a directory {path}{hint}")
    return copy.deepcopy(dict(config))


def read_preprocess(source: str, base_dir: Path) -> Config:
    """The ``preprocess_cfg`` that a model's own file has beside its ``model_cfg``; by default open_clip's holds."""
    path = base_dir / source
    path = path / CONFIG_FILE if path.is_dir() else path
    layout = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return dict(layout.get("preprocess_cfg") or {})


def weights_beside(source: str, base_dir: Path) -> Path | None:
    """The file of weights in a model's directory, or None if ``source`` is no directory or has none.

    Raises:
        RecipeError: There are several; the sentence names them.
    """
    path = base_dir / source
    if not path.is_dir():
        return None
    found = sorted(path.glob("*.safetensors"))
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise RecipeError(f"expected one file of weights in {path}, found {names}; name one as the checkpoint.")
    return found[0] if found else None


def create(config: Mapping[str, Any], device: str = "cpu") -> nn.Module:
    """A model with fresh weights in fp32, from torch's global random state.

    Its logit scale has one dimension: DeepSpeed cannot split a parameter without any.
    """
    wanted = {**config, "nonscalar_logit_scale": True}
    # open_clip's registry is global and goes by file name, hence a name of its own for every configuration.
    name = f"optima-{hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:16]}"
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / f"{name}.json"
        path.write_text(json.dumps(wanted), encoding="utf-8")
        open_clip.add_model_config(path)
    with _quiet():
        model: nn.Module = open_clip.create_model(name, load_weights=False, device=device)
    decoder = getattr(model, "text_decoder", None)
    if decoder is not None and decoder.text_projection is not None:
        # open_clip leaves it uninitialised.
        nn.init.normal_(decoder.text_projection, std=decoder.text_projection.shape[0] ** -0.5)
    return model


def tensor_names(config: Mapping[str, Any]) -> set[str]:
    """The names of a model's tensors, without making them."""
    with torch.device("meta"):
        return set(create(config, device="meta").state_dict())


def write_config(config: Mapping[str, Any], path: Path, preprocess: Mapping[str, Any]) -> None:
    """Write a ``model_cfg`` and a ``preprocess_cfg`` in the layout of open_clip's directories."""
    layout = {"model_cfg": dict(config), "preprocess_cfg": dict(preprocess)}
    path.write_text(json.dumps(layout, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back open_clip's warning that the weights are random: here that is what was asked for."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _parse(path: Path) -> Config:
    try:
        layout = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} is no JSON that can be read: {error}") from error
    config = layout.get("model_cfg", layout) if isinstance(layout, dict) else None
    needed = ("embed_dim", "vision_cfg", "text_cfg")
    if not isinstance(config, dict) or any(key not in config for key in needed):
        raise RecipeError(f"{path} is no open_clip configuration: expected the keys {', '.join(needed)}")
    return config
