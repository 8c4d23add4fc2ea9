"""transformers' decoder-only models taken apart by depth: lower, middle and upper layers.

Of GPT-2 and of those made like Llama it is known how their layers are run, so that each third can be run alone on what
the third below put out. Of others only where the layers are: they train under ``active`` and ``all``.
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
    """The adapter of a decoder-only model; None if the model is none.

    Args:
        model: Of transformers.
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
    """Each module owns its layers; the first, the embeddings too, and the last, the norm and head that stand behind."""
    base = stack.rpartition(".")[0]
    heads = [name for name, child in model.named_children() if not _holds(child, model.get_submodule(stack))]
    beside = model.get_submodule(base).named_children() if base else ()
    around = {f"{base}.{name}": child for name, child in beside if child is not model.get_submodule(stack)}
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


def _holds(module: nn.Module, wanted: nn.Module) -> bool:
    return any(inside is wanted for inside in module.modules())


def _is_like_llama(model: Any) -> bool:
    """Whether all layers see all words before: others need masks that differ from layer to layer."""
    alike = set(getattr(model.config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
    slides = getattr(model.config, "sliding_window", None) and not hasattr(model.config, "layer_types")
    return model.config.model_type in LIKE_LLAMA and alike and not slides


class _Decoder(TextAdapter):
    """Logits at position i predict token i + 1; the last has nothing to predict and is left out."""

    def __init__(self, model: Any, modules: tuple[ModuleSpec, ...]) -> None:
        self.modules = modules
        self.logits = (modules[-1].name, "logits")
        self.pad = model.config.pad_token_id
        self._own_mask = model.config._attn_implementation != "sdpa"

    def mask(self, module: str, name: str, batch: Batch) -> Tensor | None:
        return self.targets(batch) != IGNORED if name == "logits" else self.token_mask(batch)

    def task_terms(self, model: Any, batch: Batch, boundary: Mapping[str, Boundary]) -> dict[str, Tensor]:
        logits = self.logits_of(model, boundary)
        return {} if logits is None else {"tokens": token_loss(logits, self.targets(batch))}


class _ModularDecoder(_Decoder, ABC):
    """A model of which it is known how its layers are run."""

    def run(self, model: Any, module: str, batch: Batch, boundary: Mapping[str, Boundary]) -> Boundary:
        index = next(index for index, one in enumerate(self.modules) if one.name == module)
        if index == 0:
            hidden = self.embed(model.base_model, self.token_ids(batch))
        else:
            hidden = boundary[self.modules[index - 1].name]["tokens"]
        given = self.arguments(model.base_model, hidden) | {"attention_mask": self._attention(hidden, batch)}
        for name in self.modules[index].layers:
            output = model.get_submodule(name)(hidden, **given)
            hidden = output[0] if isinstance(output, tuple) else output
        if index + 1 < len(self.modules):
            return {"tokens": hidden}
        return {"logits": model.get_output_embeddings()(self.finish(model.base_model, hidden))[:, :-1]}

    @abstractmethod
    def embed(self, base: Any, words: Tensor) -> Tensor:
        """What the first layer reads: [B, L, width]."""

    def arguments(self, base: Any, hidden: Tensor) -> dict[str, Any]:
        """What every layer is given beside its input and the mask."""
        return {}

    @abstractmethod
    def finish(self, base: Any, hidden: Tensor) -> Tensor:
        """What the head reads."""

    def _attention(self, hidden: Tensor, batch: Batch) -> Tensor | None:
        """What is added to attention scores, [B or 1, 1, L, L]; None where attention is causal by itself.

        Words that pad the end are seen by no word that counts, so they need no mask: attention then is the fast kind.
        """
        given = batch.get("attention_mask")
        if given is None and not self._own_mask:
            return None
        length = hidden.shape[1]
        seen = torch.ones(length, length, dtype=torch.bool, device=hidden.device).tril()[None, None]
        if given is not None:
            seen = seen & given.bool()[:, None, None, :]
        return torch.zeros_like(seen, dtype=hidden.dtype).masked_fill(~seen, torch.finfo(hidden.dtype).min)


class _Gpt2(_ModularDecoder):
    def embed(self, base: Any, words: Tensor) -> Tensor:
        positions = torch.arange(words.shape[1], device=words.device)[None]
        return base.drop(base.wte(words) + base.wpe(positions))  # type: ignore[no-any-return]

    def finish(self, base: Any, hidden: Tensor) -> Tensor:
        return base.ln_f(hidden)  # type: ignore[no-any-return]


class _Llama(_ModularDecoder):
    def embed(self, base: Any, words: Tensor) -> Tensor:
        return base.embed_tokens(words)  # type: ignore[no-any-return]

    def arguments(self, base: Any, hidden: Tensor) -> dict[str, Any]:
        positions = torch.arange(hidden.shape[1], device=hidden.device)[None]
        return {"position_ids": positions, "position_embeddings": base.rotary_emb(hidden, positions)}

    def finish(self, base: Any, hidden: Tensor) -> Tensor:
        return base.norm(hidden)  # type: ignore[no-any-return]


class _GenericDecoder(_Decoder):
    """A model whose layers are known and how they are run is not."""

    def __init__(self, model: Any, modules: tuple[ModuleSpec, ...]) -> None:
        super().__init__(model, tuple(replace(module, inputs=None) for module in modules))

    def run_whole(self, model: Any, batch: Batch) -> dict[str, Boundary]:
        given = {"input_ids": self.token_ids(batch), "use_cache": False}
        if "attention_mask" in batch:
            given["attention_mask"] = batch["attention_mask"]
        logits = model(**given).logits[:, :-1]
        return {**{module.name: {} for module in self.modules}, self.modules[-1].name: {"logits": logits}}
