"""The modules of transformers' decoder-only models, by depth: lower, middle and upper layers.

The forward pass of GPT-2 and of the models built like Llama is reimplemented here layer by layer, so that each third
can be run alone on the output of the third below. Of other models only the layers are known: they train under
``active`` and ``all``.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from worker.models.base import Adapter, Batch, Boundary, ModuleSpec
from worker.models.hf.text import IGNORED, TextAdapter, token_loss

NAMES = ("lower", "middle", "upper")
LIKE_LLAMA = ("llama", "mistral", "qwen2", "qwen3")


def decoder_adapter(model: Any, sizes: Sequence[int] | None = None) -> Adapter | None:
    """Return the adapter of a decoder-only model; None for other models.

    Args:
        model: A model of transformers.
        sizes: Number of layers of each module; by default three modules of equal depth, the later ones larger if the
            depth is not divisible by three.
    """
    depth = getattr(model.config, "num_hidden_layers", None)
    stacks = [
        name for name, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module) == depth
    ]
    if depth is None or model.get_output_embeddings() is None or len(stacks) != 1:
        return None
    modules = _declare_modules(model, stacks[0], sizes or _split_depth(depth))
    kind = _Gpt2 if model.config.model_type == "gpt2" else _Llama if _is_like_llama(model) else _GenericDecoder
    return kind(model, modules)


def _split_depth(depth: int) -> list[int]:
    count = min(len(NAMES), depth)
    bounds = [index * depth // count for index in range(count + 1)]
    return [after - before for before, after in pairwise(bounds)]


def _declare_modules(model: Any, stack: str, sizes: Sequence[int]) -> tuple[ModuleSpec, ...]:
    """Declare modules that own their layers; the first also owns the embeddings, the last the final norm and head."""
    base = stack.rpartition(".")[0]
    heads = [name for name, child in model.named_children() if not _holds(child, model.get_submodule(stack))]
    siblings = model.get_submodule(base).named_children() if base else ()
    around = {f"{base}.{name}": child for name, child in siblings if child is not model.get_submodule(stack)}
    with_parameters = {name: child for name, child in around.items() if any(True for _ in child.parameters())}
    before = [name for name, child in with_parameters.items() if isinstance(child, nn.Embedding)]
    after = [*(name for name in with_parameters if name not in before), *heads]
    names = NAMES if len(sizes) == len(NAMES) else (NAMES[0], NAMES[-1])[: len(sizes)]
    modules, first = [], 0
    for index, (name, size) in enumerate(zip(names, sizes, strict=True)):
        layers = [f"{stack}.{number}" for number in range(first, first + size)]
        owns = [*(before if index == 0 else ()), *layers, *(after if index == len(sizes) - 1 else ())]
        modules.append(ModuleSpec(name, tuple(owns), tuple(layers), (names[index - 1],) if index else ()))
        first += size
    return tuple(modules)


def _holds(module: nn.Module, submodule: nn.Module) -> bool:
    return any(inside is submodule for inside in module.modules())


def _is_like_llama(model: Any) -> bool:
    """Return whether all layers attend to all earlier tokens: others need a different mask for each layer."""
    alike = set(getattr(model.config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
    slides = getattr(model.config, "sliding_window", None) and not hasattr(model.config, "layer_types")
    return model.config.model_type in LIKE_LLAMA and alike and not slides


class _Decoder(TextAdapter):
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


class _ModularDecoder(_Decoder, ABC):
    """The adapter of a model whose layers can be run one by one."""

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


class _GenericDecoder(_Decoder):
    """The adapter of a model whose layers are known but can only be run together."""

    def __init__(self, model: Any, modules: tuple[ModuleSpec, ...]) -> None:
        super().__init__(model, tuple(replace(module, inputs=None) for module in modules))

    def run_whole(self, model: Any, batch: Batch) -> dict[str, Boundary]:
        arguments = {"input_ids": self.token_ids(batch), "use_cache": False}
        if "attention_mask" in batch:
            arguments["attention_mask"] = batch["attention_mask"]
        logits = model(**arguments).logits[:, :-1]
        return {**{module.name: {} for module in self.modules}, self.modules[-1].name: {"logits": logits}}
