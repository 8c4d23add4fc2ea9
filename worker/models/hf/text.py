"""What transformers' text models have in common: words, which of them count, and the loss on them."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.models.base import Adapter, Batch, entry

IGNORED = -100
"""A label that is not to be predicted, as everywhere in transformers."""


class TextAdapter(Adapter):
    """Batches hold ``input_ids`` (or ``text``) [B, L], perhaps ``attention_mask`` [B, L] (1 counts) and perhaps
    ``labels`` [B, L] (-100 is not to be predicted). Without a mask the pad token pads."""

    task_weights: Mapping[str, float] = {"tokens": 1.0}
    pad: int | None = None

    def token_ids(self, batch: Batch) -> Tensor:
        """Token ids [B, L]."""
        return entry(batch, "input_ids", "text")

    def token_mask(self, batch: Batch) -> Tensor | None:
        """Which tokens are no padding: [B, L] bool; None for all."""
        if "attention_mask" in batch:
            return batch["attention_mask"].bool()
        return None if self.pad is None else self.token_ids(batch) != self.pad

    def targets(self, batch: Batch) -> Tensor:
        """What logits at positions 0 … L-2 are to predict: [B, L - 1], -100 where nothing."""
        if "labels" in batch:
            return batch["labels"][:, 1:]
        words, counts = self.token_ids(batch)[:, 1:], self.token_mask(batch)
        return words if counts is None else words.masked_fill(~counts[:, 1:], IGNORED)

    def checkpoint_activations(self, model: Any) -> None:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy over the tokens to be predicted; 0 where there are none.

    Args:
        logits: [B, positions, classes].
        targets: [B, positions], -100 where nothing is to be predicted.
    """
    losses = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
    return losses / torch.clamp((targets != IGNORED).sum(), min=1)
