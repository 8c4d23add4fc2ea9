"""The towers of open_clip's models: their layers, which positions of a text count, activation checkpointing.

Image towers are open_clip's ViT and ResNet, or any model of timm (SigLIP, EVA, ConvNeXt, …); text towers are
open_clip's transformer, or any encoder of transformers. Layers are found by structure, not by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from open_clip.hf_model import HFTextEncoder
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from torch import Tensor, nn

from worker.errors import RecipeError

CONTAINERS = (nn.Sequential, nn.ModuleList)


def layer_paths(model: nn.Module, tower: str) -> tuple[str, ...]:
    """Return globs of a tower's layers: of its stack of equal PyTorch modules that has the most parameters.

    A stack is a `Sequential` or `ModuleList` of modules of one class (transformer blocks, stages of a ConvNeXt), or
    several of those side by side whose names differ in their number only (``layer1`` … ``layer4`` of a ResNet). The
    outer one counts where stacks are nested: the sizes of feature maps change from stage to stage.

    Args:
        model: The model.
        tower: The tower's path in it.

    Raises:
        RecipeError: The tower has no stack.
    """
    best = _largest_stack(model.get_submodule(tower), tower)
    if not best:
        raise RecipeError(
            f"{tower} is a {type(model.get_submodule(tower)).__name__} without a stack of equal layers; name its "
            "layers under `modules`"
        )
    return best


def inner_stack(model: nn.Module, layer: str) -> str | None:
    """Return the path of the stack of blocks that makes up a stage; None for a layer that is no stage."""
    globs = _largest_stack(model.get_submodule(layer), layer, least=0.5)
    return globs[0].removesuffix(".*") if len(globs) == 1 else None


def _largest_stack(tower: nn.Module, path: str, least: float = 0.0) -> tuple[str, ...]:
    """Return globs of the layers of a tower's largest stack; empty if that has not more than this share of it."""
    best: tuple[str, ...] = ()
    most = least * sum(parameter.numel() for parameter in tower.parameters())
    for globs, layers in _stacks(tower, path):
        size = sum(parameter.numel() for layer in layers for parameter in layer.parameters())
        if size > most:
            best, most = globs, size
    return best


def _stacks(tower: nn.Module, path: str) -> Iterator[tuple[tuple[str, ...], list[nn.Module]]]:
    """Yield (globs, layers) of every stack of a tower, outer ones before inner ones."""
    for name, module in tower.named_modules(prefix=path):
        children = dict(module.named_children())
        if isinstance(module, CONTAINERS) and len({type(child) for child in children.values()}) == 1:
            yield (f"{name}.*",), list(children.values())
            continue
        series: dict[str, dict[str, nn.Module]] = {}
        for child_name, child in children.items():
            if isinstance(child, CONTAINERS) and (match := re.fullmatch(r"(\D+)\d+", child_name)):
                series.setdefault(match[1], {})[f"{name}.{child_name}"] = child
        for members in series.values():
            yield tuple(members), list(members.values())


@dataclass(frozen=True)
class TextPositions:
    """Which positions of a text tower's hidden states count.

    Attributes:
        pad: The token that pads a text.
        class_token: Whether a class token comes after the text.
        all_count: Whether padding counts as well: it does for a tower that attends to it or reads its output there,
            as SigLIP's.
    """

    pad: int = 0
    class_token: bool = False
    all_count: bool = False

    @classmethod
    def of(cls, model: Any) -> TextPositions:
        """Return those of a CLIP or CoCa."""
        text = getattr(model, "text", None)
        if isinstance(text, HFTextEncoder):
            return cls(pad=text.config.pad_token_id or 0)
        if text is None:
            # open_clip's older kind of CLIP has the text tower's components itself.
            reads_padding = model.text_pool_type == "last" or model.attn_mask is None
            return cls(all_count=reads_padding)
        class_token = getattr(text, "cls_emb", None) is not None
        masks_padding = class_token or getattr(text, "use_pad_mask", False)
        reads_padding = text.pool_type == "last" or (text.attn_mask is None and not masks_padding)
        return cls(text.pad_id, class_token, reads_padding and not class_token)

    def mask(self, text: Tensor) -> Tensor | None:
        """Return the mask of hidden states, [B, L] or with a class token [B, L + 1] bool; None if all count."""
        if self.all_count:
            return None
        not_padding = text != self.pad
        return F.pad(not_padding, (0, 1), value=True) if self.class_token else not_padding


def checkpoint_activations(model: Any) -> None:
    """Make a model recompute its layers in the backward pass, by non-reentrant checkpointing.

    Raises:
        RecipeError: A tower does not offer it.
    """
    visual, text = model.visual, getattr(model, "text", None)
    trunk = visual.trunk if isinstance(visual, TimmModel) else visual
    refusal = RecipeError(
        f"student.checkpointing: the image tower, a {type(trunk).__name__}, does not offer activation checkpointing; "
        "write none"
    )
    if isinstance(trunk, ModifiedResNet):
        # It has the method, which does nothing.
        raise refusal
    try:
        # Of open_clip and timm both are non-reentrant.
        trunk.set_grad_checkpointing(True)
    except (NotImplementedError, AttributeError, AssertionError) as error:
        raise refusal from error
    if isinstance(text, HFTextEncoder):
        # open_clip's own call would leave it to transformers whether it is reentrant.
        encoder, options = text.transformer, {"use_reentrant": False}
        if hasattr(encoder, "activation_checkpointing_enable"):
            encoder.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
        else:
            encoder.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
    elif text is None:
        model.transformer.grad_checkpointing = True
    else:
        text.set_grad_checkpointing(True)
    if (decoder := getattr(model, "text_decoder", None)) is not None:
        decoder.set_grad_checkpointing(True)
