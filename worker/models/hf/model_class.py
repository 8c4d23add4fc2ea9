"""The class of a model of transformers: one of transformers, or of the model's own code, if the recipe trusts that.

A model's own code is the Python files beside its weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import transformers
from transformers import PreTrainedConfig
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from worker.errors import RecipeError
from worker.models.folders import join_names

USUAL = (
    transformers.AutoModelForMultimodalLM,
    transformers.AutoModelForSpeechSeq2Seq,
    transformers.AutoModelForSeq2SeqLM,
    transformers.AutoModelForCausalLM,
    transformers.AutoModelForMaskedLM,
    transformers.AutoModelForObjectDetection,
    transformers.AutoModel,
)
"""The tasks for which a model is trained whose configuration does not say so; the first that it has."""


def check_trusted(spec: str, place: str, within: Mapping[str, Any]) -> None:
    """Raise RecipeError if a model cannot be built without its own code.

    Transformers itself would ask on the terminal, and wait.

    Args:
        spec: The model in the recipe.
        place: The model's directory or its id on the hub.
        within: Its place in a repository on the hub.
    """
    content, _ = PreTrainedConfig.get_config_dict(place, **within)
    references = _references(content)
    known_type = content.get("model_type") in transformers.CONFIG_MAPPING
    named = content.get("architectures")
    known_class = not named or any(hasattr(transformers, name) for name in named)
    if references and not (known_type and known_class):
        files = sorted({f"{reference.rpartition('.')[0]}.py" for reference in references.values()})
        raise RecipeError(
            f"{spec} runs code of its own ({join_names(files)}); read it, and if you trust it, write "
            "`options: {trust_remote_code: true}`"
        )


def model_class(spec: str, config: Any, place: str, within: Mapping[str, Any], code: Mapping[str, Any]) -> Any:
    """Return the class of a model.

    Args:
        spec: The model in the recipe.
        config: Its configuration.
        place: Its directory or its id on the hub.
        within: Its place in a repository on the hub.
        code: The arguments that allow its own code to run, if any.

    Raises:
        RecipeError: Its configuration names no class.
    """
    own = _own_class(config, place, {**within, **code}) if code else None
    return own or _usual(spec, config)


def _own_class(config: Any, place: str, within: Mapping[str, Any]) -> Any:
    """Return the model class in the model's own files that its configuration names; None if it names none.

    The class is registered, so that ``save_pretrained`` writes its files with the weights.
    """
    references = _references({"auto_map": getattr(config, "auto_map", None)})
    models = {auto: reference for auto, reference in references.items() if auto.startswith("AutoModel")}
    if not models:
        return None
    wanted = set(getattr(config, "architectures", None) or ())
    auto = next((name for name, reference in models.items() if reference.rpartition(".")[2] in wanted), None)
    if auto is None:
        # The plain encoder comes last: it has no loss.
        auto = min(models, key=lambda name: name == "AutoModel")
    kind: Any = get_class_from_dynamic_module(models[auto], place, **within)
    kind.register_for_auto_class(auto)
    return kind


def _usual(spec: str, config: Any) -> Any:
    """Return the class of transformers that a configuration names, or the usual one for training its type."""
    for name in getattr(config, "architectures", None) or ():
        if hasattr(transformers, name):
            return getattr(transformers, name)
    encodes, decodes = getattr(config, "is_encoder_decoder", False), getattr(config, "is_decoder", False)
    for auto in USUAL:
        # Many encoders can be used as decoders too, which their configuration then says.
        other = auto is transformers.AutoModelForCausalLM and not decodes and not encodes
        if other and type(config) in transformers.AutoModelForMaskedLM._model_mapping:
            continue
        if type(config) in auto._model_mapping:
            kind = auto._model_mapping[type(config)]
            return kind[0] if isinstance(kind, tuple) else kind
    raise RecipeError(
        f"{spec}: config.json names no class of transformers under `architectures`, and there is no usual one for "
        f"the type {config.model_type}; add the class to config.json"
    )


def _references(content: Mapping[str, Any]) -> dict[str, str]:
    """Return the classes that a configuration names in the model's own files, by transformers' automatic class."""
    return {name: value for name, value in (content.get("auto_map") or {}).items() if isinstance(value, str)}
