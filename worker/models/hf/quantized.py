"""Models with quantized weights: bitsandbytes, torchao, GPTQ, AWQ, fp8, mxfp4 and others that transformers loads.

A quantized teacher runs as its library loads it, in the type that the job computes in. All models are first loaded and
checked on the CPU, so weights whose kernels need a GPU (fp8, mxfp4) are dequantized while they are loaded. Quantized
weights cannot be trained: a student is cut from, or loaded as, dequantized ones.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers.quantizers.auto import AutoQuantizationConfig

from worker.errors import RecipeError


def method_of(config: Any) -> str | None:
    """Return the name of the method by which a configuration says that the weights are quantized, if any."""
    section = _section(config)
    if section is None:
        return None
    fields = section.quantization_config
    name = fields.get("quant_method") if isinstance(fields, dict) else fields.quant_method
    return str(getattr(name, "value", name))


def forget(config: Any) -> None:
    """Remove the quantization from the configuration of a model whose weights are made, or come from elsewhere."""
    while (section := _section(config)) is not None:
        del section.quantization_config


def dequantize_while_loading(config: Any) -> None:
    """Let transformers dequantize the weights while it loads them, if it can; otherwise they stay quantized."""
    section = _section(config)
    if section is None or not isinstance(section.quantization_config, dict):
        return
    if hasattr(AutoQuantizationConfig.from_dict(dict(section.quantization_config)), "dequantize"):
        section.quantization_config = {**section.quantization_config, "dequantize": True}


def is_quantized(model: nn.Module) -> bool:
    """Return whether a model has quantized weights."""
    return bool(getattr(model, "is_quantized", False))


def dequantize(model: Any) -> Any:
    """Return a quantized model with weights in fp32; the model itself is changed.

    Raises:
        RecipeError: The library that quantized them does not dequantize.
    """
    method = method_of(model.config)
    try:
        if method == "torchao":
            _dequantize_tensors(model)
        else:
            model = model.dequantize(torch.float32)
    except (NotImplementedError, ValueError, AttributeError) as error:
        raise RecipeError(
            f"weights quantized by {method} cannot be dequantized, and quantized ones cannot be trained; name the "
            "model that was quantized instead"
        ) from error
    return plain(model)


def plain(model: Any) -> Any:
    """Return a model with weights in fp32 that was dequantized, or never quantized, without marks of quantization."""
    for name in ("is_quantized", "is_loaded_in_4bit", "is_loaded_in_8bit"):
        vars(model).pop(name, None)
    return model.float()


def _dequantize_tensors(model: Any) -> None:
    """Replace tensors that hold quantized values by plain ones."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if type(parameter.data) is not Tensor:
                values: Any = parameter.data
                setattr(module, name, nn.Parameter(values.dequantize()))
    model.hf_quantizer.remove_quantization_config(model)


def dequantized_copy(model: nn.Module) -> Any:
    """Return a copy of a quantized model with weights in fp32."""
    return dequantize(copy.deepcopy(model))


def _section(config: Any) -> Any:
    """Return the configuration that says how the weights are quantized: the model's, or that of its language model."""
    for section in (config, config.get_text_config(decoder=True)):
        if getattr(section, "quantization_config", None) is not None:
            return section
    return None
