"""The adapters of decoder-only models whose thirds are run alone: GPT-2, and the models built like Llama.

Their forward pass is reimplemented here layer by layer, so that each third can be run alone on the output of the third
below. All other decoders are run as a whole (whole.py).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from worker.models.base import Adapter, Batch, Boundary, ModuleSpec, OwnForward
from worker.models.hf.structure import Structure
from worker.models.hf.text import IGNORED, TextAdapter, token_loss

LIKE_LLAMA = ("llama", "mistral", "qwen2", "qwen3")


def decoder_adapter(model: Any, structure: Structure) -> Adapter | None:
    """Return the adapter of a causal language model whose layers can be run one by one; None for other models."""
    if not type(model).__name__.endswith(("ForCausalLM", "LMHeadModel")):
        return None
    kind = _Gpt2 if model.config.model_type == "gpt2" else _Llama if _is_like_llama(model) else None
    if kind is None:
        return None
    names = [module.name for module in structure.modules]
    inputs = [(), *((name,) for name in names[:-1])]
    modules = (replace(module, inputs=read) for module, read in zip(structure.modules, inputs, strict=True))
    return kind(model, tuple(modules))


def _is_like_llama(model: Any) -> bool:
    """Return whether all layers attend to all earlier tokens: others need a different mask for each layer."""
    alike = set(getattr(model.config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
    slides = getattr(model.config, "sliding_window", None) and not hasattr(model.config, "layer_types")
    return model.config.model_type in LIKE_LLAMA and alike and not slides


class _ModularDecoder(TextAdapter, ABC):
    """The common base: logits at position i predict token i + 1; those of the last position are left out."""

    def __init__(self, model: Any, modules: tuple[ModuleSpec, ...]) -> None:
        super().__init__(model.config)
        self.modules = modules
        self.logits = (modules[-1].name, "logits")
        self._own_mask = model.config._attn_implementation != "sdpa"

    def mask(self, module: str, name: str, batch: Batch) -> Tensor | None:
        return self.targets(batch) != IGNORED if name == "logits" else self.token_mask(batch)

    def task_terms(self, model: Any, batch: Batch, boundary: Mapping[str, Boundary]) -> dict[str, Tensor]:
        logits = self.logits_of(model, boundary)
        return {} if logits is None else {"tokens": token_loss(logits, self.targets(batch))}

    def own_forward(self, model: Any, batch: Batch) -> OwnForward:
        mask = {"attention_mask": batch["attention_mask"]} if "attention_mask" in batch else {}
        output = model(input_ids=self.token_ids(batch), labels=self.own_labels(batch), use_cache=False, **mask)
        return OwnForward(output.logits[:, :-1], {"tokens": output.loss})

    def run(self, model: Any, module: str, batch: Batch, boundary: Mapping[str, Boundary]) -> Boundary:
        index = next(index for index, spec in enumerate(self.modules) if spec.name == module)
        if index == 0:
            hidden = self.embed(model.base_model, self.token_ids(batch))
        else:
            hidden = boundary[self.modules[index - 1].name]["tokens"]
        arguments = self.arguments(model.base_model, hidden) | {"attention_mask": self._attention(hidden, batch)}
        for name in self.modules[index].layers:
            output = model.get_submodule(name)(hidden, **arguments)
            hidden = output[0] if isinstance(output, tuple) else output
        if index + 1 < len(self.modules):
            return {"tokens": hidden}
        return {"logits": model.get_output_embeddings()(self.finish(model.base_model, hidden))[:, :-1]}

    @abstractmethod
    def embed(self, base: Any, token_ids: Tensor) -> Tensor:
        """Return the input of the first layer: [B, L, width]."""

    def arguments(self, base: Any, hidden: Tensor) -> dict[str, Any]:
        """Return the arguments of every layer in addition to its input and the mask."""
        return {}

    @abstractmethod
    def finish(self, base: Any, hidden: Tensor) -> Tensor:
        """Return the input of the head."""

    def _attention(self, hidden: Tensor, batch: Batch) -> Tensor | None:
        """Return the mask that is added to attention scores, [B or 1, 1, L, L]; None for plain causal attention.

        No token that counts attends to padding at the end, so that needs no mask, and attention can use its fast path.
        """
        padding = batch.get("attention_mask")
        if padding is None and not self._own_mask:
            return None
        length = hidden.shape[1]
        visible = torch.ones(length, length, dtype=torch.bool, device=hidden.device).tril()[None, None]
        if padding is not None:
            visible = visible & padding.bool()[:, None, None, :]
        return torch.zeros_like(visible, dtype=hidden.dtype).masked_fill(~visible, torch.finfo(hidden.dtype).min)


class _Gpt2(_ModularDecoder):
    def embed(self, base: Any, token_ids: Tensor) -> Tensor:
        positions = torch.arange(token_ids.shape[1], device=token_ids.device)[None]
        return base.drop(base.wte(token_ids) + base.wpe(positions))  # type: ignore[no-any-return]

    def finish(self, base: Any, hidden: Tensor) -> Tensor:
        return base.ln_f(hidden)  # type: ignore[no-any-return]


class _Llama(_ModularDecoder):
    def embed(self, base: Any, token_ids: Tensor) -> Tensor:
        return base.embed_tokens(token_ids)  # type: ignore[no-any-return]

    def arguments(self, base: Any, hidden: Tensor) -> dict[str, Any]:
        positions = torch.arange(hidden.shape[1], device=hidden.device)[None]
        return {"position_ids": positions, "position_embeddings": base.rotary_emb(hidden, positions)}

    def finish(self, base: Any, hidden: Tensor) -> Tensor:
        return base.norm(hidden)  # type: ignore[no-any-return]
