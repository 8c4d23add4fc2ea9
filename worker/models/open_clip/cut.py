"""Cutting a CLIP or CoCa with fewer layers from another; each layer is a bitwise copy."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import timm
import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from torch import nn

from worker.errors import RecipeError
from worker.models.base import Adapter
from worker.models.cut import LayerSelection, check_keep, layers_to_keep
from worker.models.open_clip.files import Config, create
from worker.models.open_clip.tower_files import NAMES, TOWERS
from worker.models.open_clip.towers import inner_stack
from worker.models.paths import layer_names
from worker.models.weights import load_weights

SECTIONS = {"image": "vision_cfg", "text": "text_cfg", "multimodal": "multimodal_cfg"}
"""The section of open_clip's ``model_cfg`` for each module; a CLIP has no multimodal decoder."""
_TOWERS = {"visual": "image", "text": "text", "transformer": "text", "text_decoder": "multimodal"}
"""The module that a PyTorch module of the model belongs to, by the first part of its path."""
_DEPTHS = ("depth", "depths", "layers")
"""The arguments of timm's models for the number of blocks: of all, or a list by stage."""
_HF_DEPTHS = ("num_hidden_layers", "encoder_layers", "num_layers")
"""The fields of transformers' configurations for the number of an encoder's layers."""


def cut(model: nn.Module, config: Config, adapter: Adapter, keep: Mapping[str, int]) -> tuple[nn.Module, Config]:
    """Cut a student from a model.

    A layer of the multimodal decoder is a self-attention block with its cross-attention block. Of a tower in stages (a
    ResNet, ConvNeXt or Swin), ``keep`` is the number of blocks of all stages together; each stage keeps its share, and
    its first block, which may change the size.

    Args:
        model: The model; it is not changed and shares no memory with the student.
        config: Its ``model_cfg``.
        adapter: Its modules.
        keep: Number of layers to keep, by module; modules that are not named keep all.

    Returns:
        The student, on the CPU in fp32, and its ``model_cfg``.

    Raises:
        RecipeError: ``keep`` names a module that the model does not have or an impossible number of layers, or no
            configuration describes such a tower.
    """
    layers = layer_names(model, adapter)
    stages = {module: list(_blocks(model, names)) for module, names in layers.items()}
    in_stages = {module: blocks for module, blocks in stages.items() if module in keep and blocks}
    sizes = {module: len(names) for module, names in layers.items()}
    sizes |= {module: sum(count for _, count in blocks) for module, blocks in in_stages.items()}
    check_keep(keep, sizes, type(model).__name__)
    selection = LayerSelection(model, adapter, {module: keep[module] for module in keep if module not in in_stages})
    origins = dict(selection.origins)
    for module, blocks in in_stages.items():
        origins |= _share(module, blocks, keep[module])
    if (decoder := origins.get("text_decoder.cross_attn")) is not None:
        origins["text_decoder.resblocks"] = decoder
    # All stages are kept: what is cut is within them.
    selection.origins = {
        stack: numbers
        for stack, numbers in origins.items()
        if not any(inner.startswith(f"{stack}.") for inner in origins)
    }
    shorter = {
        stack.partition(".")[0]
        for stack, numbers in selection.origins.items()
        if len(numbers) < len(list(model.get_submodule(stack).children()))
    }
    smaller = copy.deepcopy(config)
    for tower in sorted(shorter):
        _describe(smaller, model, tower, selection.origins)
    student = create(smaller)
    theirs = model.state_dict()
    state = {}
    for name in student.state_dict():
        value = theirs[selection.source(name, theirs)].detach().cpu()
        state[name] = value.float() if value.is_floating_point() else value
    load_weights(student, state, "the part cut from the teacher")
    return student, smaller


def _blocks(model: nn.Module, layers: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Yield the stack of blocks in each layer and its length, if the layers are stages."""
    for layer in layers:
        stack = inner_stack(model, layer)
        if stack is not None:
            yield stack, len(list(model.get_submodule(stack).children()))


def _share(module: str, stages: Sequence[tuple[str, int]], keep: int) -> dict[str, list[int]]:
    """Return the indices of the blocks that are kept, by the name of the stack: as many of each stage's as of all."""
    if keep < len(stages):
        raise RecipeError(
            f"keep asks for {keep} blocks of {module}; expected at least one in each of {len(stages)} stages"
        )
    total = sum(count for _, count in stages)
    shares = [max(1.0, count * keep / total) for _, count in stages]
    counts = [int(share) for share in shares]
    while sum(counts) != keep:
        step = 1 if sum(counts) < keep else -1
        able = [i for i, (_, count) in enumerate(stages) if 1 <= counts[i] + step <= count]
        best = max(able, key=lambda i: step * (shares[i] - counts[i]))
        counts[best] += step
    return {
        stack: [0, *(1 + number for number in layers_to_keep(total - 1, count - 1))]
        for (stack, total), count in zip(stages, counts, strict=True)
    }


def _describe(config: Config, model: nn.Module, tower: str, origins: Mapping[str, Sequence[int]]) -> None:
    """Change a configuration so that it describes a tower with the layers that are kept."""
    section = SECTIONS[_TOWERS[tower]]
    part: Any = model.get_submodule(tower)
    counts = {
        stack.removeprefix(f"{tower}."): len(numbers)
        for stack, numbers in origins.items()
        if stack.startswith(f"{tower}.")
    }
    first = next(iter(counts.values()))
    if isinstance(part, TimmModel):
        known = config.get(TOWERS, {}).get(section, {}).get("model_args", {})
        config.setdefault(TOWERS, {})[section] = _timm_config(part.trunk, known, counts)
    elif isinstance(part, HFTextEncoder):
        content = part.config.to_dict()
        depths = {name: first for name in _HF_DEPTHS if name in content}
        config.setdefault(TOWERS, {})[section] = {**content, **depths}
    else:
        config[section]["layers"] = list(counts.values()) if isinstance(part, ModifiedResNet) else first


def _timm_config(trunk: Any, arguments: Mapping[str, Any], counts: Mapping[str, int]) -> dict[str, Any]:
    """Return the ``config.json`` of a timm model that has the layers that are kept.

    Args:
        trunk: The teacher's.
        arguments: Those that it was built with, beside its name.
        counts: The number of layers by stack.

    Raises:
        RecipeError: timm does not build such a model.
    """
    name = trunk.pretrained_cfg["architecture"]
    lengths = list(counts.values())
    for field in _DEPTHS:
        wanted = {**arguments, field: lengths[0] if field == "depth" else lengths}
        try:
            with torch.device("meta"):
                shorter = timm.create_model(name, **wanted)
        except (TypeError, AssertionError, IndexError, RuntimeError, ValueError):
            continue
        if all(_length(shorter, stack.removeprefix("trunk.")) == count for stack, count in counts.items()):
            plain = {key: value for key, value in trunk.pretrained_cfg.items() if key not in ("file", "source")}
            return {"architecture": name, "model_args": wanted, "pretrained_cfg": plain}
    raise RecipeError(
        f"timm cannot build a {name} with {' + '.join(map(str, lengths))} blocks; keep all layers of the image tower, "
        f"or write a configuration of the student's own (student.model) with a smaller {NAMES['vision_cfg']}"
    )


def _length(model: nn.Module, stack: str) -> int:
    return sum(name.rpartition(".")[0] == stack for name, _ in model.named_modules())
