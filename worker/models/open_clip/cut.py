"""Cutting a CoCa or CLIP with fewer layers from another; each layer is a bitwise copy."""

import copy
import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from worker.errors import RecipeError
from worker.models.cut import check_keep, layers_to_keep
from worker.models.open_clip.files import Config, create
from worker.models.weights import load_weights

SECTIONS = {"image": "vision_cfg", "text": "text_cfg", "multimodal": "multimodal_cfg"}
"""The section of open_clip's ``model_cfg`` for each module; a CLIP has no multimodal decoder."""

_STACKS = {
    "image": r"visual\.transformer\.resblocks",
    "text": r"(?:text\.)?transformer\.resblocks",
    "multimodal": r"text_decoder\.(?:resblocks|cross_attn)",
}
_LAYER = re.compile("|".join(rf"(?P<{module}>{stack})\.(?P<{module}_layer>\d+)\." for module, stack in _STACKS.items()))


def cut(model: nn.Module, config: Config, keep: Mapping[str, int]) -> tuple[nn.Module, Config]:
    """Cut a student from a model with open_clip's own transformers as towers.

    Args:
        model: The model; it is not changed and shares no memory with the student.
        config: Its ``model_cfg``.
        keep: Number of layers to keep of ``image``, ``text`` and, for a CoCa, ``multimodal``; modules that are not
            named keep all. A layer of the multimodal decoder is a self-attention block with its cross-attention block.

    Returns:
        The student, on the CPU in fp32, and its ``model_cfg``.

    Raises:
        RecipeError: ``keep`` names a module that the model does not have or an impossible number of layers, or the
            towers are not open_clip's own transformers.
    """
    sections = {module: section for module, section in SECTIONS.items() if section in config}
    layers = {module: _layers(config, module) for module in sections}
    check_keep(keep, layers, "CoCa" if "multimodal" in layers else "CLIP")
    smaller = copy.deepcopy(config)
    for module, count in keep.items():
        smaller[sections[module]]["layers"] = count
    place = {
        module: {layer: i for i, layer in enumerate(layers_to_keep(layers[module], keep.get(module, layers[module])))}
        for module in sections
    }
    state = {}
    for name, value in model.state_dict().items():
        name_in_student = _renamed(name, place)
        if name_in_student is not None:
            state[name_in_student] = value.detach().cpu().float()
    student = create(smaller)
    load_weights(student, state, "the part cut from the teacher")
    return student, smaller


def _layers(config: Mapping[str, Any], module: str) -> int:
    section = config.get(SECTIONS[module])
    section = section if isinstance(section, Mapping) else {}
    layers = section.get("layers", 12) if section else None
    if not isinstance(layers, int) or "timm_model_name" in section or "hf_model_name" in section:
        raise RecipeError(
            "a student can be cut only from a model whose towers are open_clip's own transformers; "
            f"{SECTIONS[module]} of this model is {section!r}"
        )
    return layers


def _renamed(name: str, place: Mapping[str, Mapping[int, int]]) -> str | None:
    """Return a tensor's name in the student, or None if its layer is not kept."""
    match = _LAYER.match(name)
    if match is None:
        return name
    module = next(module for module in _STACKS if match[module] is not None)
    layer = place[module].get(int(match[f"{module}_layer"]))
    return None if layer is None else f"{match[module]}.{layer}.{name[match.end() :]}"
