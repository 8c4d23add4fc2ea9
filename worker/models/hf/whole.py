"""The adapter of any model of transformers: it runs the model's own forward pass, on what that reads of a batch.

So masks, the merging of picture and text, logits and loss are the model's own, whatever its kind.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache
from types import MappingProxyType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from worker.models.base import Adapter, Batch, Boundary
from worker.models.generic import named_outputs
from worker.models.hf.structure import THIRDS, Structure
from worker.models.hf.text import IGNORED, TextAdapter, token_loss
from worker.models.task_losses import contrastive

log = logging.getLogger(__name__)

ALIASES = {"input_ids": "text", "pixel_values": "image"}
"""Entries of a batch under another name, as the data modules call them."""
_LOSS = "loss/"
_IMAGE, _TEXT = "image_embeds", "text_embeds"
_OUTPUT = "output"
_FRAMES = ("feature_attention_mask", "input_features_mask", "padding_mask", "attention_mask")
"""Batch entries that mask audio before the model shortens it."""


class WholeAdapter(TextAdapter):
    """The adapter of a model that is run as a whole.

    Batches have what the model's forward pass reads, by its parameters' names. The task loss is the model's own, if
    the batch has ``labels``; the parts of a detector's loss are terms of their own. A causal language model without
    labels predicts its own tokens.

    Args:
        model: A model of transformers.
        structure: Its modules.
    """

    # Which losses there are depends on the batch: each weighs 1.
    task_weights = MappingProxyType({})

    def __init__(self, model: Any, structure: Structure) -> None:
        super().__init__(_text_config(model.config))
        self.modules = structure.modules
        self._kinds = structure.kinds
        self._last = self.modules[-1].name
        self._generates = model.can_generate()
        self._answers = self._generates and bool(getattr(model.config, "is_encoder_decoder", False))
        self._causal = self._generates and not self._answers
        self._frames = _frame_counter(model)
        if _has_head(model):
            self.logits = (self._last, "logits")
        elif all(module.name in THIRDS for module in self.modules):
            # A plain encoder: what comes behind its last layer is compared as well.
            self.modules = (*self.modules[:-1], replace(self.modules[-1], matched=(_OUTPUT,)))
        reads_text_only = all(kind == "text" for kind in structure.kinds.values())
        self._term = "tokens" if self._answers or (self._causal and reads_text_only) else "loss"
        self._config = model.config
        self._warned: set[str] = set()
        self._contrasts: bool | None = None
        self._positions_first: set[str] = set()

    def run_whole(self, model: Any, batch: Batch) -> dict[str, Boundary]:
        """Run the model and return the boundary tensors: logits and losses belong to the last module."""
        arguments = self.arguments(model, batch)
        output = model(**arguments)
        boundary = named_outputs(model, output, self.outputs)
        logits = _logits(output)
        if logits is not None:
            boundary["logits"] = self._predictions(logits, batch)
        for name, loss in self._losses(output).items():
            boundary[_LOSS + name] = loss
        boundary |= self._embeddings(model, output)
        if self.modules[-1].matched:
            boundary[_OUTPUT] = output[0]
        return {**{module.name: {} for module in self.modules}, self._last: boundary}

    def arguments(self, model: Any, batch: Batch) -> dict[str, Any]:
        """Return the arguments of the model's forward pass: the entries of the batch that it names."""
        names, open_ended = _parameters(type(model).forward)
        if open_ended and model.base_model is not model:
            names = names | _parameters(type(model.base_model).forward)[0]
        arguments: dict[str, Any] = {name: batch[name] for name in names if name in batch}
        for name, other in ALIASES.items():
            if name in names and name not in batch and other in batch and other not in names:
                arguments[name] = batch[other]
        if "attention_mask" in names and "attention_mask" not in batch and "input_ids" in arguments:
            # No token that counts in a causal model attends to padding at the end.
            mask = None if self._causal else self.token_mask(batch)
            if mask is not None:
                arguments["attention_mask"] = mask.long()
        if "use_cache" in names or (open_ended and self._generates):
            arguments["use_cache"] = False
        if "return_dict" in names:
            arguments["return_dict"] = True
        if "return_loss" in names:
            arguments["return_loss"] = True
        return arguments

    def mask(self, module: str, name: str, batch: Batch) -> Tensor | None:
        """Return which positions of a module's hidden states count."""
        if name == "logits":
            return self.logits_mask(batch)
        kind = self._kinds.get(module, "other")
        if kind == "text":
            return self._text_mask(batch)
        if kind == "answer":
            return self._answer_mask(batch)
        return self._frame_mask(batch) if kind == "audio" else None

    def logits_mask(self, batch: Batch) -> Tensor | None:
        """Return which positions of the logits count: those with labels, or those that are not padding."""
        if self._contrasts:
            return batch.get("paired")
        if self._causal:
            return self.targets(batch) != IGNORED
        labels = batch.get("labels")
        if isinstance(labels, Tensor) and not labels.is_floating_point() and not self._aligns_freely:
            return labels != IGNORED
        return self.mask(self._last, "hidden", batch)

    def mask_for(self, module: str, name: str, batch: Batch, tensor: Tensor) -> Tensor | None:
        """Return the mask of a tensor; none if the tensor has other positions than it."""
        return self._fitting(module, self.mask(module, name, batch), tensor)

    def logits_mask_for(self, batch: Batch, logits: Tensor) -> Tensor | None:
        """Return the mask of the logits; none if they are not of single positions."""
        mask = self.logits_mask(batch)
        return mask if mask is not None and mask.shape == logits.shape[:-1] else None

    def task_terms(self, model: Any, batch: Batch, boundary: Mapping[str, Boundary]) -> dict[str, Tensor]:
        """Return the model's own losses; without labels, that of a causal language model's own tokens.

        The model's own contrastive loss compares the rows of this rank; here it is that of the rows of all ranks.
        """
        tensors = boundary.get(self._last, {})
        if _IMAGE in tensors:
            bias = getattr(model, "logit_bias", None)
            pair = tensors[_IMAGE], tensors[_TEXT]
            return {self._term: contrastive(*pair, model.logit_scale, batch.get("paired"), bias)}
        terms = {name.removeprefix(_LOSS): loss for name, loss in tensors.items() if name.startswith(_LOSS)}
        if not terms and self._causal and "logits" in tensors:
            terms[self._term] = token_loss(tensors["logits"], self.targets(batch))
        return terms

    def checkpoint_activations(self, model: Any) -> None:
        """Make the model recompute its layers in the backward pass."""
        if not model.supports_gradient_checkpointing:
            Adapter.checkpoint_activations(self, model)
        super().checkpoint_activations(model)

    def embeddings_of(self, model: Any, boundary: Mapping[str, Boundary]) -> Boundary | None:
        """Return the embeddings of a CLIP or SigLIP."""
        tensors = boundary.get(self._last, {})
        if _IMAGE not in tensors:
            return None
        scale = model.logit_scale.detach().float().exp()
        return {"image": tensors[_IMAGE], "text": tensors[_TEXT], "scale": scale}

    def _embeddings(self, model: Any, output: Any) -> Boundary:
        """Return the embeddings of two towers, if the model's own loss is the contrastive one of these."""
        image, text, loss = (output.get(name) for name in (_IMAGE, _TEXT, "loss"))
        scale: Any = getattr(model, "logit_scale", None)
        bias = getattr(model, "logit_bias", None)
        if not all(isinstance(tensor, Tensor) for tensor in (image, text, loss, scale)) or scale.numel() != 1:
            return {}
        if image.ndim != 2 or image.shape != text.shape:
            return {}
        if self._contrasts is None:
            with torch.no_grad():
                difference = contrastive(image, text, scale, None, bias) - loss
            self._contrasts = bool(difference.abs() <= 1e-3 * (1 + loss.abs()))
        return {_IMAGE: image, _TEXT: text} if self._contrasts else {}

    @property
    def _aligns_freely(self) -> bool:
        """Whether labels are not those of the positions at the same place, as under CTC."""
        return self._kinds.get(self._last) == "audio"

    def _losses(self, output: Any) -> dict[str, Tensor]:
        loss = output.get("loss")
        if not isinstance(loss, Tensor):
            return {}
        return _parts(output, self._config) or {self._term: loss.reshape(())}

    def _predictions(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return logits as [B, positions, classes] or [B, classes]; those of a causal model that predict a token."""
        if logits.ndim == 4:
            logits = logits.flatten(2).transpose(1, 2)
        if not self._causal:
            return logits
        token_ids = next((batch[name] for name in ("input_ids", "text") if name in batch), None)
        if token_ids is not None and logits.shape[1] > token_ids.shape[1]:
            # The picture's positions come first (GIT).
            logits = logits[:, -token_ids.shape[1] :]
        return logits[:, :-1]

    def _text_mask(self, batch: Batch) -> Tensor | None:
        return self.token_mask(batch) if batch.keys() & {"attention_mask", "input_ids", "text"} else None

    def _answer_mask(self, batch: Batch) -> Tensor | None:
        if "labels" in batch:
            labels = batch["labels"]
            return labels != IGNORED if isinstance(labels, Tensor) else None
        return batch["decoder_attention_mask"].bool() if "decoder_attention_mask" in batch else None

    def _frame_mask(self, batch: Batch) -> Tensor | None:
        """Return which frames are not padding: [B, frames] bool; None if the model cannot tell, or all count."""
        given = next((batch[name] for name in _FRAMES if name in batch), None)
        if given is None or self._frames is None or ("input_ids" in batch and given is batch.get("attention_mask")):
            return None
        lengths, most = self._frames(given.sum(-1)), self._frames(torch.tensor(given.shape[-1]))
        return torch.arange(int(most), device=given.device) < lengths[:, None]

    def _fitting(self, module: str, mask: Tensor | None, tensor: Tensor) -> Tensor | None:
        """Return a mask as that of a tensor's positions, or None if they are others."""
        if mask is not None and mask.ndim == tensor.ndim == 3 and mask[..., 0].numel() == len(tensor):
            # The texts of several choices are rows: [B, choices, L].
            mask = mask.flatten(0, 1)
        if mask is None or mask.ndim != tensor.ndim - 1:
            return None
        if tensor.shape[:-1] == mask.shape[::-1] != mask.shape:
            # Positions first, as in XLNet. A square batch says nothing: it is like those before.
            self._positions_first.add(module)
        if module in self._positions_first:
            mask = mask.T
        missing = tensor.shape[1] - mask.shape[1] if mask.ndim == 2 else 0
        if self._causal and missing > 0:
            # The picture's positions come first (GIT).
            mask = torch.cat([mask.new_ones(len(mask), missing), mask], 1)
        if mask.shape == tensor.shape[:-1]:
            return mask
        if module not in self._warned and not bool(mask.all()):
            self._warned.add(module)
            log.warning(
                "%s has hidden states of the shape %s and the batch masks %s positions: all of them count, padding too",
                module, list(tensor.shape), list(mask.shape),
            )  # fmt: skip
        return None


@cache
def _parameters(forward: Callable[..., Any]) -> tuple[frozenset[str], bool]:
    """Return the names of the parameters of a class's forward pass, and whether it takes others."""
    parameters = list(inspect.signature(forward).parameters.values())[1:]
    named = frozenset(one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY))
    return named, any(one.kind is one.VAR_KEYWORD for one in parameters)


def _text_config(config: Any) -> Any:
    """Return the part of a configuration that is about the text; all of it if there is none, or several texts."""
    with suppress(ValueError):
        return config.get_text_config()
    return config


def _has_head(model: Any) -> bool:
    """Return whether a model computes more than hidden states; the names of such classes say for which task."""
    contrasts = any("logit_scale" in name for name, _ in model.named_parameters())
    return not contrasts and ("For" in type(model).__name__ or model.get_output_embeddings() is not None)


def _logits(output: Any) -> Tensor | None:
    """Return the logits of an output; for the span of an answer those of its ends: [B, 2, positions]."""
    for name in ("logits", "prediction_logits"):
        if isinstance(output.get(name), Tensor):
            return output[name]  # type: ignore[no-any-return]
    if isinstance(output.get("start_logits"), Tensor):
        return torch.stack([output["start_logits"], output["end_logits"]], 1)
    return None


def _parts(output: Any, config: Any) -> dict[str, Tensor]:
    """Return the weighted parts of a detector's loss by name, those of all its decoder's layers together.

    Its forward pass returns unweighted parts beside their sum, for which they were weighted by the configuration. If
    the sum cannot be explained that way there are none.
    """
    parts = output.get("loss_dict")
    if not isinstance(parts, Mapping):
        return {}
    coefficients = {"loss_ce": getattr(config, "class_loss_coefficient", 1.0)}
    for name in ("bbox", "giou", "mask", "dice"):
        coefficients[f"loss_{name}"] = getattr(config, f"{name}_loss_coefficient", 0.0)
    for weights, other in (({}, 1.0), (coefficients, 0.0)):
        terms: dict[str, Tensor] = {}
        for name, part in parts.items():
            short = _OF_A_LAYER.sub("", name)
            if weight := weights.get(short, other):
                terms[short] = terms[short] + weight * part if short in terms else weight * part
        total = torch.stack([term.detach().float() for term in terms.values()]).sum() if terms else None
        if total is not None and torch.isclose(total, output["loss"].detach().float(), rtol=1e-3):
            return terms
    return {}


_OF_A_LAYER = re.compile(r"(_(enc|aux|dn|\d+))+$")


def _frame_counter(model: Any) -> Callable[[Tensor], Tensor] | None:
    """Return the function by which a model counts its audio encoder's frames, without the model's weights."""
    for module in (model, getattr(model, "base_model", model), *_audio_encoder(model)):
        count = getattr(type(module), "_get_feat_extract_output_lengths", None)
        if count is not None:
            owner = SimpleNamespace(config=module.config)

            def frames(lengths: Tensor, count: Any = count, owner: Any = owner) -> Tensor:
                result = count(owner, lengths)
                return result[0] if isinstance(result, tuple) else result  # type: ignore[no-any-return]

            return frames
    return None


def _audio_encoder(model: Any) -> list[Any]:
    encoders = [model.get_encoder(modality="audio"), model.get_encoder()] if hasattr(model, "get_encoder") else []
    return [encoder for encoder in encoders if encoder is not model]
