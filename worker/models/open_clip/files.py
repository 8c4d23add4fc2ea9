"""Configurations and weights of open_clip's models, in files and by name.

A directory is in open_clip's own layout, which ``open_clip.create_model("local-dir:DIRECTORY")`` reads too:
``open_clip_config.json`` with ``model_cfg`` and ``preprocess_cfg``, beside it the weights. So is a repository on the
hub, ``hf-hub:ORG/NAME``.
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
from huggingface_hub.constants import HF_HUB_CACHE
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict
from open_clip.pretrained import download_pretrained_from_hf
from torch import Tensor, nn

from worker.errors import RecipeError
from worker.models.folders import join_names, resolve_path, weight_files
from worker.models.weights import unwrapped

CONFIG_FILE = "open_clip_config.json"
HUB = "hf-hub:"
"""Stands before the id of a model on the hub, as in open_clip."""
LOCAL = "local-dir:"
"""May stand before a directory, as in open_clip."""
LOADED = (".safetensors", ".bin", ".pth")
"""Files beside a configuration that open_clip takes for weights."""
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
"""Names of weights that open_clip prefers where there are several, in its order: open_clip/factory.py."""

Config = dict[str, Any]


def read_config(source: str, base_dir: Path) -> Config:
    """The ``model_cfg`` of a model.

    Args:
        source: A directory or a JSON file, absolute or relative to ``base_dir``; a name open_clip knows; or
            ``hf-hub:`` and the id of one of its models on the hub.
        base_dir: Where relative paths start.

    Raises:
        RecipeError: Nothing goes by that name, or the file is no configuration of a model.
    """
    file = _config_file(source, base_dir)
    if file is not None:
        return _parse(file)
    if source not in open_clip.list_models():
        near = difflib.get_close_matches(source, open_clip.list_models(), n=3, cutoff=0.5)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        path = local(source, base_dir)
        raise RecipeError(f"there is no open_clip model {source!r}, and neither a file nor a directory {path}{hint}")
    return copy.deepcopy(dict(open_clip.get_model_config(source)))


def read_preprocess(source: str, base_dir: Path) -> Config:
    """The ``preprocess_cfg`` that a model's own file has beside its ``model_cfg``; by default open_clip's holds."""
    file = _config_file(source, base_dir)
    layout = json.loads(file.read_text(encoding="utf-8")) if file is not None else {}
    return dict(layout.get("preprocess_cfg") or {})


def local(source: str, base_dir: Path) -> Path:
    """The path that a source is, if it is one; ``local-dir:`` may stand before it."""
    return resolve_path(base_dir, source.removeprefix(LOCAL))


def weights_of(source: str, base_dir: Path) -> Path | None:
    """The file of weights that open_clip loads for a source by itself; None if ``source`` is a configuration alone.

    Raises:
        RecipeError: There are several, or only such as open_clip does not load; the sentence names them.
    """
    if source.startswith(HUB):
        return _from_hub(source, None)
    folder = local(source, base_dir)
    if not folder.is_dir():
        return None
    found = weight_files(folder)
    loadable = [name for name in found if Path(name).suffix in LOADED and Path(name).parent == Path()]
    preferred = [name for name in PREFERRED if name in loadable]
    if preferred or len(loadable) == 1:
        return folder / (preferred or loadable)[0]
    if loadable:
        raise RecipeError(
            f"expected one file of weights in {folder}, found {join_names(loadable)}; name one as the checkpoint"
        )
    if found:
        raise RecipeError(
            f"of the weights in {folder} open_clip loads none by itself, only {_LOADED} beside {CONFIG_FILE}: it holds "
            f"{join_names(found)}; name one as the checkpoint"
        )
    return None


def where_looked(source: str, base_dir: Path) -> str:
    """Where there would have been weights, for a source that has none."""
    path = local(source, base_dir)
    if path.is_dir():
        return f"the directory {path} holds {CONFIG_FILE} and none of {_LOADED}"
    if path.is_file():
        beside = weight_files(path.parent)
        hint = (
            f"; {path.parent} holds {join_names(beside)}, which its own name, without {path.name}, loads"
            if beside
            else ""
        )
        return f"{path} is a configuration alone{hint}"
    tags = open_clip.list_pretrained_tags_by_model(source)
    known = (
        f"open_clip has weights for it under the tags {join_names(tags)}" if tags else "open_clip has no weights for it"
    )
    behind = f", to be named behind it: open_clip:{source}@{tags[0]}" if tags else ""
    return f"it names an architecture alone; {known}{behind}"


def create(config: Mapping[str, Any], device: str = "cpu", *, base_towers: bool = False) -> nn.Module:
    """A model with fresh weights in fp32, from torch's global random state.

    Its logit scale has one dimension: DeepSpeed cannot split a parameter without any.

    Args:
        config: Its ``model_cfg``.
        device: Where it is made.
        base_towers: Whether a text tower of transformers comes with the weights that transformers has for it.
    """
    wanted = {**config, "nonscalar_logit_scale": True}
    # open_clip's registry is global and goes by file name, hence a name of its own for every configuration.
    name = f"optima-{hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:16]}"
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / f"{name}.json"
        path.write_text(json.dumps(wanted), encoding="utf-8")
        open_clip.add_model_config(path)
    with _quiet():
        model: nn.Module = open_clip.create_model(name, load_weights=False, device=device, pretrained_text=base_towers)
    decoder = getattr(model, "text_decoder", None)
    if decoder is not None and decoder.text_projection is not None:
        # open_clip leaves it uninitialised.
        nn.init.normal_(decoder.text_projection, std=decoder.text_projection.shape[0] ** -0.5)
    return model


def renamed(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the names that a model of open_clip has today, as open_clip renames what it loads itself.

    Unlike open_clip this changes no tensor: one of another shape, such as position embeddings for another size of
    picture, does not fit.
    """
    expected = model.state_dict().keys()
    tensors: dict[str, Tensor] = convert_state_dict(model, unwrapped(state, expected))
    if "positional_embedding" in tensors and not hasattr(model, "positional_embedding"):
        tensors = convert_to_custom_text_state_dict(tensors)
    # transformers wrote it until 4.31.
    return {name: value for name, value in tensors.items() if name in expected or not name.endswith(".position_ids")}


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


def _config_file(source: str, base_dir: Path) -> Path | None:
    """The JSON file that holds a source's configuration; None for a name of open_clip's.

    Raises:
        RecipeError: It is on the hub, and cannot be had.
    """
    if source.startswith(HUB):
        return _from_hub(source, CONFIG_FILE)
    path = local(source, base_dir)
    path = path / CONFIG_FILE if path.is_dir() else path
    return path if path.is_file() else None


def _from_hub(source: str, file: str | None) -> Path:
    """A file of a model on the hub, downloaded if it is not in the cache; by default its weights."""
    try:
        return Path(download_pretrained_from_hf(source.removeprefix(HUB), filename=file))
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"open_clip:{source}: {file or 'its weights'} cannot be had from the hub, nor from its cache "
            f"{HF_HUB_CACHE}: {error}"
        ) from error


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
