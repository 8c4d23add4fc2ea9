"""The common base of transformers' text models: token ids, their mask, and the loss on tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.data.tokens import not_padding
from worker.models.base import Adapter, Batch, entry

IGNORED = -100
"""The label of positions that are not predicted, as everywhere in transformers."""


@dataclass(frozen=True)
class SpecialTokens:
    """The special tokens of a model, by which padding is recognised in batches without a mask.

    Attributes:
        pads: Those that pad a text: the configuration's ``pad_token_id``, or if it has none, each that ends a text.
        starts: Those that start a text.
        ends: Those that end one.
    """

    pads: tuple[int, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]

    @classmethod
    def from_config(cls, config: Any) -> SpecialTokens:
        """Return the special tokens that a configuration names."""
        ends = _ids(config, "eos_token_id", "sep_token_id")
        return cls(_ids(config, "pad_token_id") or ends, _ids(config, "bos_token_id"), ends)

    def mask(self, token_ids: Tensor) -> Tensor | None:
        """Return which tokens of texts [B, L] are not padding, as `not_padding`; None if no token is known to pad."""
        mask = None
        for pad in self.pads:
            counted = not_padding(token_ids, pad, starts=self.starts, ends=self.ends)
            mask = counted if mask is None else mask & counted
        return mask


class TextAdapter(Adapter):
    """The base of adapters for text.

    Batches have ``input_ids`` (or ``text``) [B, L], optionally ``attention_mask`` [B, L] (1 counts) and ``labels``
    [B, L] (-100 is not predicted). Without a mask, the pad tokens at the end of a text, or at its beginning, are
    padding; if they are also what ends a text, the first of them is its end and is predicted.

    Args:
        config: The configuration of the model that reads the text.
    """

    task_weights: Mapping[str, float] = {"tokens": 1.0}

    def __init__(self, config: Any) -> None:
        self.pad: int | None = getattr(config, "pad_token_id", None)
        self.special = SpecialTokens.from_config(config)

    def token_ids(self, batch: Batch) -> Tensor:
        """Return the token ids [B, L]."""
        return entry(batch, "input_ids", "text")

    def token_mask(self, batch: Batch) -> Tensor | None:
        """Return which tokens are not padding: [B, L] bool, or None for all."""
        if "attention_mask" in batch:
            return batch["attention_mask"].bool()
        return self.special.mask(self.token_ids(batch))

    def targets(self, batch: Batch) -> Tensor:
        """Return the targets of the logits at positions 0 … L - 2: [B, L - 1], -100 where nothing is predicted."""
        if "labels" in batch:
            return batch["labels"][:, 1:]
        token_ids, mask = self.token_ids(batch)[:, 1:], self.token_mask(batch)
        return token_ids if mask is None else token_ids.masked_fill(~mask[:, 1:], IGNORED)

    def own_labels(self, batch: Batch) -> Tensor:
        """Return the labels that the model's own forward pass shifts by one: [B, L]."""
        return F.pad(self.targets(batch), (1, 0), value=IGNORED)

    def checkpoint_activations(self, model: Any) -> None:
        """Make the model recompute its layers in the backward pass."""
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def token_loss(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Compute the cross-entropy over the predicted tokens; 0 if there are none.

    Args:
        logits: [B, positions, classes].
        targets: [B, positions], -100 where nothing is predicted.
        smoothing: The share of a target's probability that is spread over all classes.
    """
    losses = F.cross_entropy(
        logits.float().flatten(0, 1),
        targets.flatten(),
        ignore_index=IGNORED,
        reduction="sum",
        label_smoothing=smoothing,
    )
    return losses / torch.clamp((targets != IGNORED).sum(), min=1)


def _ids(config: Any, *fields: str) -> tuple[int, ...]:
    """Return the tokens that these fields of a configuration name: each a token, several, or none."""
    ids: list[int] = []
    for field in fields:
        value = getattr(config, field, None)
        ids += value if isinstance(value, list | tuple) else [] if value is None else [value]
    # Some configurations name token -1 for none.
    return tuple(dict.fromkeys(token for token in ids if token >= 0))
