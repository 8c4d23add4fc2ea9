"""Task losses. Pure functions of tensors; each reduces in fp32 to a scalar."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
"""The label of positions that do not count: the default of `torch.nn.functional.cross_entropy`."""


def answer(logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Compute the cross-entropy of the answer's tokens, without those of the question, which would outweigh them.

    A task loss for a recipe: ``loss.task: {"worker.models.task_losses:answer": 1}``.

    Args:
        logits: [B, L - 1, vocabulary]; those at position i predict token i + 1.
        batch: With ``text`` [B, L] and ``answer`` [B, L] bool; see ``worker.data.base.DataModule``.
    """
    targets = batch["text"][:, 1:].masked_fill(~batch["answer"][:, 1:], IGNORED)
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED)


def contrastive(image: Tensor, text: Tensor, logit_scale: Tensor, paired: Tensor | None) -> Tensor:
    """Compute the symmetric InfoNCE loss over the paired rows of this rank's batch.

    Radford et al. 2021, arXiv 2103.00020.
    Unpaired rows are masked out as candidates and as targets. No row is dropped, so that shapes are fixed and every
    rank does the same work.

    Args:
        image: Latents [B, width].
        text: The same shape.
        logit_scale: The logarithm of the inverse temperature, one element; no gradient reaches it.
        paired: [B] bool, or None for all rows.
    """
    if paired is None:
        paired = torch.ones(len(image), dtype=torch.bool, device=image.device)
    scale = logit_scale.detach().float().exp().squeeze()
    # Autocast would multiply in half precision.
    with torch.autocast(image.device.type, enabled=False):
        similarity = scale * F.normalize(image.float(), dim=-1) @ F.normalize(text.float(), dim=-1).T
    target = torch.arange(len(paired), device=paired.device)
    impossible = ~paired[None, :] & (target[None, :] != target[:, None])
    # A finite penalty: an infinite one makes the gradient of a row without any other candidate NaN.
    by_image = F.cross_entropy(similarity.masked_fill(impossible, -1e4), target, reduction="none")
    by_text = F.cross_entropy(similarity.T.masked_fill(impossible, -1e4), target, reduction="none")
    weight = paired.float()
    return ((by_image + by_text) * weight).sum() / (2 * weight.sum().clamp(min=1))
