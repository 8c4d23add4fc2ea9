"""Configurations and weights of open_clip's models, in files and by name.

A directory has open_clip's own layout, which ``open_clip.create_model("local-dir:DIRECTORY")`` reads too:
``open_clip_config.json`` with ``model_cfg`` and ``preprocess_cfg``, and the weights next to it. A repository on the
hub, ``hf-hub:ORG/NAME``, has the same layout.
"""

import copy
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
from huggingface_hub.constants import HF_HUB_CACHE
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict
from open_clip.pretrained import download_pretrained_from_hf
from torch import Tensor, nn

from worker.errors import RecipeError
from worker.models.folders import join_names, resolve_path, weight_files
from worker.models.open_clip.tower_files import read_towers, write_towers
from worker.models.weights import unwrapped
from worker.names import suggest

CONFIG_FILE = "open_clip_config.json"
HUB = "hf-hub:"
"""The prefix of a model's id on the hub, as in open_clip."""
LOCAL = "local-dir:"
"""The optional prefix of a directory, as in open_clip."""
LOADED = (".safetensors", ".bin", ".pth")
"""Extensions of the files next to a configuration that open_clip loads as weights."""
_LOADED = ", ".join(f"*{ending}" for ending in LOADED)
PREFERRED = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
"""Names of weight files that open_clip prefers if there are several, in its order (open_clip/factory.py)."""

Config = dict[str, Any]


def read_config(source: str, base_dir: Path) -> Config:
    """Read the ``model_cfg`` of a model.

    Args:
        source: A directory or a JSON file, absolute or relative to ``base_dir``; a name that open_clip knows; or
            ``hf-hub:`` and the id of a model on the hub.
        base_dir: The directory that relative paths start from.

    Raises:
        RecipeError: There is no such model, or the file is not a model's configuration.
    """
    file = _config_file(source, base_dir)
    if file is not None:
        return _parse(file)
    if source not in open_clip.list_models():
        hint = suggest(source, open_clip.list_models(), "models", most=3)
        path = local(source, base_dir)
        raise RecipeError(f"open_clip has no model {source!r}, and there is no file or directory {path}{hint}")
    return copy.deepcopy(dict(open_clip.get_model_config(source)))


def read_preprocess(source: str, base_dir: Path) -> Config:
    """Read the ``preprocess_cfg`` of a model; empty if it uses open_clip's default."""
    file = _config_file(source, base_dir)
    layout = json.loads(file.read_text(encoding="utf-8")) if file is not None else {}
    return dict(layout.get("preprocess_cfg") or {})


def local(source: str, base_dir: Path) -> Path:
    """Return the path that a source names if it is one, without the prefix ``local-dir:``."""
    return resolve_path(base_dir, source.removeprefix(LOCAL))


def weights_of(source: str, base_dir: Path) -> Path | None:
    """Return the weight file that open_clip would load for a source; None if it is only a configuration.

    Raises:
        RecipeError: There are several, or only files that open_clip does not load; the message names them.
    """
    if source.startswith(HUB):
        return _from_hub(source, None)
    folder = local(source, base_dir)
    if not folder.is_dir():
        return None
    files = weight_files(folder)
    loadable = [name for name in files if Path(name).suffix in LOADED and Path(name).parent == Path()]
    preferred = [name for name in PREFERRED if name in loadable]
    if preferred or len(loadable) == 1:
        return folder / (preferred or loadable)[0]
    if loadable:
        raise RecipeError(
            f"expected one file of weights in {folder}, found {join_names(loadable)}; name one as the checkpoint"
        )
    if files:
        raise RecipeError(
            f"open_clip loads only {_LOADED} next to {CONFIG_FILE}, but {folder} has {join_names(files)}; name one of "
            "them as the checkpoint"
        )
    return None


def where_looked(source: str, base_dir: Path) -> str:
    """Return where weights were looked for, for a source without any."""
    path = local(source, base_dir)
    if path.is_dir():
        return f"the directory {path} has {CONFIG_FILE} but none of {_LOADED}"
    if path.is_file():
        siblings = weight_files(path.parent)
        hint = f"; to load {join_names(siblings)}, name the directory {path.parent}" if siblings else ""
        return f"{path} is only a configuration{hint}"
    tags = open_clip.list_pretrained_tags_by_model(source)
    if not tags:
        return "it is only an architecture, for which open_clip has no weights"
    return (
        f"it is only an architecture; open_clip has weights for it under the tags {join_names(tags)}, which go after "
        f"an @, as in open_clip:{source}@{tags[0]}"
    )


def create(config: Mapping[str, Any], device: str = "cpu", *, base_towers: bool = False) -> nn.Module:
    """Create a model with fresh weights in fp32, from torch's global random state.

    Its logit scale has one dimension: DeepSpeed cannot partition a parameter without dimensions.

    Args:
        config: Its ``model_cfg``.
        device: The device to create it on.
        base_towers: Whether a text tower of transformers is loaded with its pretrained weights.
    """
    complete = {**config, "nonscalar_logit_scale": True}
    # open_clip's registry is global and keyed by file name, so every configuration needs a unique name.
    name = f"optima-{hashlib.sha256(json.dumps(complete, sort_keys=True).encode()).hexdigest()[:16]}"
    with tempfile.TemporaryDirectory() as directory, _quiet():
        path = Path(directory) / f"{name}.json"
        path.write_text(json.dumps(write_towers(complete, Path(directory))), encoding="utf-8")
        open_clip.add_model_config(path)
        model: nn.Module = open_clip.create_model(name, load_weights=False, device=device, pretrained_text=base_towers)
    decoder = getattr(model, "text_decoder", None)
    if decoder is not None and decoder.text_projection is not None:
        # open_clip leaves this parameter uninitialised.
        nn.init.normal_(decoder.text_projection, std=decoder.text_projection.shape[0] ** -0.5)
    return model


def renamed(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under the names in today's open_clip, with the renaming that open_clip applies itself.

    Unlike open_clip this changes no tensor: tensors of another shape, such as position embeddings for another image
    size, do not fit.
    """
    expected = model.state_dict().keys()
    tensors: dict[str, Tensor] = convert_state_dict(model, unwrapped(state, expected))
    if "positional_embedding" in tensors and not hasattr(model, "positional_embedding"):
        tensors = convert_to_custom_text_state_dict(tensors)
    # transformers saved this buffer until 4.31.
    return {name: value for name, value in tensors.items() if name in expected or not name.endswith(".position_ids")}


def tensor_names(config: Mapping[str, Any]) -> set[str]:
    """Return the names of a model's tensors without allocating them."""
    with torch.device("meta"):
        return set(create(config, device="meta").state_dict())


def write_config(config: Mapping[str, Any], path: Path, preprocess: Mapping[str, Any]) -> None:
    """Write a ``model_cfg`` with its towers' files, and a ``preprocess_cfg``, in the layout of open_clip."""
    layout = {"model_cfg": write_towers(config, path.parent), "preprocess_cfg": dict(preprocess)}
    path.write_text(json.dumps(layout, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence open_clip's warning that the weights are random; here they are meant to be."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _config_file(source: str, base_dir: Path) -> Path | None:
    """Return the JSON file of a source's configuration; None for a name that open_clip knows.

    Raises:
        RecipeError: It is on the hub and cannot be downloaded.
    """
    if source.startswith(HUB):
        return _from_hub(source, CONFIG_FILE)
    path = local(source, base_dir)
    path = path / CONFIG_FILE if path.is_dir() else path
    return path if path.is_file() else None


def _from_hub(source: str, file: str | None) -> Path:
    """Return a file of a model on the hub, by default its weights; it is downloaded if it is not in the cache."""
    try:
        return Path(download_pretrained_from_hf(source.removeprefix(HUB), filename=file))
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"open_clip:{source}: {file or 'its weights'} cannot be downloaded from the hub, nor found in its cache "
            f"{HF_HUB_CACHE}: {error}"
        ) from error


def _parse(path: Path) -> Config:
    try:
        layout = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} cannot be read as JSON: {error}") from error
    config = layout.get("model_cfg", layout) if isinstance(layout, dict) else None
    needed = ("embed_dim", "vision_cfg", "text_cfg")
    if not isinstance(config, dict) or any(key not in config for key in needed):
        raise RecipeError(f"{path} is not an open_clip configuration; expected the keys {', '.join(needed)}")
    return read_towers(config, path.parent)
