"""The common base of transformers' text models: token ids, their mask, and the loss on tokens."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.models.base import Adapter, Batch, entry

IGNORED = -100
"""The label of positions that are not predicted, as everywhere in transformers."""


class TextAdapter(Adapter):
    """The base of adapters for text.

    Batches have ``input_ids`` (or ``text``) [B, L], optionally ``attention_mask`` [B, L] (1 counts) and ``labels``
    [B, L] (-100 is not predicted). Without a mask, pad tokens are padding.
    """

    task_weights: Mapping[str, float] = {"tokens": 1.0}
    pad: int | None = None

    def token_ids(self, batch: Batch) -> Tensor:
        """Return the token ids [B, L]."""
        return entry(batch, "input_ids", "text")

    def token_mask(self, batch: Batch) -> Tensor | None:
        """Return which tokens are not padding: [B, L] bool, or None for all."""
        if "attention_mask" in batch:
            return batch["attention_mask"].bool()
        return None if self.pad is None else self.token_ids(batch) != self.pad

    def targets(self, batch: Batch) -> Tensor:
        """Return the targets of the logits at positions 0 … L - 2: [B, L - 1], -100 where nothing is predicted."""
        if "labels" in batch:
            return batch["labels"][:, 1:]
        token_ids, mask = self.token_ids(batch)[:, 1:], self.token_mask(batch)
        return token_ids if mask is None else token_ids.masked_fill(~mask[:, 1:], IGNORED)

    def checkpoint_activations(self, model: Any) -> None:
        """Make the model recompute its layers in the backward pass."""
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute the cross-entropy over the predicted tokens; 0 if there are none.

    Args:
        logits: [B, positions, classes].
        targets: [B, positions], -100 where nothing is predicted.
    """
    losses = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
    return losses / torch.clamp((targets != IGNORED).sum(), min=1)
