"""The stacks and towers of a model: its lists of blocks, and the PyTorch modules around them.

A *block* has at least two weight matrices and a norm; a *stack* is a numbered list of blocks. The stages of an encoder
like Swin or ResNet, which hold a list of blocks each, are one stack together. A *tower* is the largest PyTorch module
that has one stack.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from torch import nn

CONNECTOR = re.compile(
    r"connector|projector|merger|aligner|abstractor|resampler|perceiver|q_?former|multi_?modal|multi_?media|bridge|adapt"
)
"""Names of what lies between a tower and a language model."""


@dataclass
class Tower:
    """A tower.

    Attributes:
        path: Its dotted path; empty for the whole model.
        layers: The names of its blocks, in order.
        role: What it is for: image, video, audio, text, language, encoder, decoder, connector or another name.
        name: The name of its module: its role, unless others have the same.
        before: What belongs to its first block, outside of it.
        after: What belongs to its last block, outside of it.
    """

    path: str
    layers: list[str]
    role: str = ""
    name: str = ""
    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)


def find_towers(model: Any) -> list[Tower]:
    """Return the towers of a model of transformers, in its order."""
    return _towers(model, "", _scopes(model))


def numbered(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the entries of a list; those without parameters say nothing about it."""
    entries = list(module.named_children()) if isinstance(module, nn.ModuleList | nn.Sequential) else []
    return [(name, entry) for name, entry in entries if any(True for _ in entry.parameters())]


def _is_block(module: nn.Module) -> bool:
    matrices = islice((parameter for parameter in module.parameters() if parameter.ndim > 1), 2)
    return len(list(matrices)) == 2 and any("norm" in type(inside).__name__.lower() for inside in module.modules())


def _blocks(path: str, module: nn.Module) -> list[str]:
    """Return the names of the blocks in a list, those of its stages one after the other; none if it is no stack."""
    entries = numbered(module)
    if not entries or not all(_is_block(entry) for _, entry in entries):
        return []
    stages = [_stage_blocks(f"{path}.{name}", entry) for name, entry in entries]
    if all(stages):
        return [name for stage in stages for name in stage]
    return [f"{path}.{name}" for name, _ in entries]


def _stage_blocks(path: str, stage: nn.Module) -> list[str]:
    """Return the names of the blocks in a stage, which is a list of blocks of one class, or has one as its child."""
    if blocks := _blocks(path, stage):
        return blocks
    lists = [(f"{path}.{name}", child) for name, child in stage.named_children()]
    alike = [(name, child) for name, child in lists if len({type(entry) for _, entry in numbered(child)}) == 1]
    found = [(child, blocks) for name, child in alike if (blocks := _blocks(name, child))]
    if len(found) != 1:
        return []
    # A block by itself may have a list of layers as well (MobileBERT).
    child, blocks = found[0]
    around = nn.ModuleList(other for other in stage.children() if other is not child)
    return [] if _is_block(around) and "attention" in _words(around) else blocks


def _words(module: nn.Module) -> str:
    return " ".join(type(inside).__name__.lower() for inside in module.modules())


def _stacks(module: nn.Module, path: str = "") -> list[list[str]]:
    """Return the blocks of each outermost stack in a module."""
    if path and (blocks := _blocks(path, module)):
        return [blocks]
    stacks = []
    children = [(join(path, name), child) for name, child in module.named_children()]
    # torchvision's and timm's ResNets have their stages as layer1 to layer4.
    stages = [(name, child) for name, child in children if re.fullmatch(r"(layer|stage)s?_?\d+", leaf(name))]
    staged = [_stage_blocks(name, child) for name, child in stages]
    if len(staged) > 1 and all(staged):
        stacks.append([name for stage in staged for name in stage])
        children = [entry for entry in children if entry not in stages]
    for name, child in children:
        stacks += _stacks(child, name)
    return stacks


def _towers(module: nn.Module, path: str, scopes: Mapping[str, str]) -> list[Tower]:
    """Return the towers in a module, in its order."""
    stacks = _stacks(module, path)
    parents = {name.rpartition(".")[0].rpartition(".")[0] for blocks in stacks for name in blocks[:1]}
    if path in scopes:
        main = [blocks for blocks in stacks if not CONNECTOR.search(blocks[0].removeprefix(path))]
        return [Tower(path, [name for blocks in main for name in blocks], scopes[path])] if main else []
    # Lists beside each other belong together; the longest is what the tower's depth means.
    if len(stacks) == 1 or (len(parents) == 1 and path):
        return [Tower(path, max(stacks, key=len))] if stacks else []
    return [tower for name, child in module.named_children() for tower in _towers(child, join(path, name), scopes)]


def _scopes(model: Any) -> dict[str, str]:
    """Return the paths of the encoders that the model itself names, with their roles."""
    if not hasattr(model, "get_encoder"):
        return {}
    names = {id(module): name for name, module in model.named_modules()}
    # Some models return the encoder of their text for everything.
    others = (model, model.base_model, model.get_encoder())
    encoders = {role: model.get_encoder(modality=role) for role in ("image", "audio")}
    return {
        names[id(encoder)]: role
        for role, encoder in encoders.items()
        if id(encoder) in names and all(encoder is not other for other in others)
    }


def outside(model: nn.Module, path: str, taken: set[str]) -> Iterator[tuple[str, nn.Module | nn.Parameter]]:
    """Yield what has parameters with a dimension outside of some PyTorch modules: outermost modules, single parameters.

    Args:
        model: The model.
        path: The dotted path within which to look.
        taken: The dotted paths of the PyTorch modules that are left out.
    """
    # A module with several paths is known by its first.
    yield from _outside(model.get_submodule(path), path, taken, {name for name, _ in model.named_modules()})


def _outside(
    module: nn.Module, path: str, taken: set[str], names: set[str]
) -> Iterator[tuple[str, nn.Module | nn.Parameter]]:
    for name, parameter in module.named_parameters(recurse=False):
        if parameter.ndim:
            yield join(path, name), parameter
    for name, child in module.named_children():
        full = join(path, name)
        if full in taken or full not in names:
            continue
        if any(tower.startswith(f"{full}.") for tower in taken):
            yield from _outside(child, full, taken, names)
        elif any(parameter.ndim for parameter in child.parameters()):
            yield full, child


def join(path: str, name: str) -> str:
    """Return the dotted path of a module's child."""
    return f"{path}.{name}" if path else name


def leaf(path: str) -> str:
    """Return the last component of a dotted path."""
    return path.rpartition(".")[2]
