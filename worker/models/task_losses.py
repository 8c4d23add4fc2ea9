"""Task losses; each reduces in fp32 to a scalar."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.models.all_ranks import all_rows, own_place

IGNORED = -100
"""The label of positions that do not count: the default of `torch.nn.functional.cross_entropy`."""
IMPOSSIBLE = -1e4
"""The similarity of a pair that does not count. An infinite one makes the gradient of a row without any other candidate
NaN."""


def answer(logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Compute the cross-entropy of the answer's tokens, without those of the question, which would outweigh them.

    A task loss for a recipe: ``loss.task: {"worker.models.task_losses:answer": 1}``.

    Args:
        logits: [B, L - 1, vocabulary]; those at position i predict token i + 1.
        batch: With ``text`` [B, L] and ``answer`` [B, L] bool; see ``worker.data.base.DataModule``.
    """
    targets = batch["text"][:, 1:].masked_fill(~batch["answer"][:, 1:], IGNORED)
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED)


@dataclass(frozen=True)
class Similarities:
    """The similarities of this rank's B rows with the N rows of all ranks.

    Attributes:
        by_image: Of each of this rank's images with every text, [B, N].
        by_text: Of each of this rank's texts with every image, [B, N].
        own: The column of each row's own partner, [B].
        counts: Which pairs count: those of two paired rows, and each row with its own partner; [B, N] bool.
        paired: Which of this rank's rows are paired, [B] bool.
        paired_rows: The number of paired rows divided by the number of ranks, at least one row.
    """

    by_image: Tensor
    by_text: Tensor
    own: Tensor
    counts: Tensor
    paired: Tensor
    paired_rows: Tensor

    @classmethod
    def from_embeddings(cls, image: Tensor, text: Tensor, scale: Tensor, paired: Tensor | None) -> Similarities:
        """Compare the embeddings of two towers; collective within `all_ranks_together`.

        Args:
            image: [B, width].
            text: The same shape.
            scale: The factor of the cosines, one element.
            paired: [B] bool, or None for all rows.
        """
        rank, ranks = own_place()
        size, device = len(image), image.device
        if paired is None:
            paired = torch.ones(size, dtype=torch.bool, device=device)
        # Autocast would multiply in half precision.
        with torch.autocast(device.type, enabled=False):
            image, text = F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1)
            rows = all_rows(torch.cat((image, text, paired.float()[:, None]), dim=1))
            images, texts, all_paired = torch.split(rows, [image.shape[1], text.shape[1], 1], dim=1)
            scale = scale.float().reshape(())
            by_image, by_text = scale * image @ texts.T, scale * text @ images.T
        own = rank * size + torch.arange(size, device=device)
        is_own = own[:, None] == torch.arange(ranks * size, device=device)
        counts = ((all_paired[:, 0] > 0.5) & paired[:, None]) | is_own
        paired_rows = all_paired.detach().sum().clamp(min=1) / ranks
        return cls(by_image, by_text, own, counts, paired, paired_rows)

    def mean(self, losses: Tensor) -> Tensor:
        """Return this rank's share of the mean of a loss over the paired rows of all ranks.

        The mean of the ranks' shares is that mean.

        Args:
            losses: Of this rank's rows, [B].
        """
        return (losses * self.paired).sum() / self.paired_rows


def contrastive(
    image: Tensor,
    text: Tensor,
    logit_scale: Tensor,
    paired: Tensor | None = None,
    logit_bias: Tensor | None = None,
) -> Tensor:
    """Compute the contrastive loss over the paired rows of all ranks.

    With similarities s_ij = exp(logit_scale) · cos(image_i, text_j) + logit_bias, of n paired rows, it is

    - without a bias the symmetric InfoNCE (Radford et al. 2021, arXiv 2103.00020, figure 3):
      ``- 1/2n Σ_i (log softmax_j(s_ij)[i] + log softmax_j(s_ji)[i])``
    - with a bias SigLIP's pairwise sigmoid loss (Zhai et al. 2023, arXiv 2303.15343, §3.2):
      ``- 1/n Σ_i Σ_j log σ(z_ij s_ij)``, where z_ij is 1 for i = j, otherwise -1.

    A model has the bias if and only if it was trained with the second one: a bias has no effect on a softmax.

    Each rank compares its own B rows with the N rows of all ranks, in B · N memory (``--local-loss
    --gather-with-grad`` of open_clip), and the mean of the ranks' losses and gradients is that of one rank with the
    whole batch. With gradient accumulation the rows are those of one micro-batch on all ranks. Unpaired rows are masked
    out as candidates and as targets. No row is dropped, so that shapes are fixed and every rank does the same work.

    Args:
        image: Embeddings [B, width], of any length: they are normalised here.
        text: The same shape.
        logit_scale: The logarithm of the inverse temperature, one element; no gradient reaches it.
        paired: [B] bool, or None for all rows.
        logit_bias: One element, or None; no gradient reaches it.

    Returns:
        This rank's share of the loss, a scalar.
    """
    pairs = Similarities.from_embeddings(image, text, logit_scale.detach().float().exp(), paired)
    if logit_bias is not None:
        logits = pairs.by_image + logit_bias.detach().float().reshape(())
        sign = torch.full_like(logits, -1.0).scatter_(1, pairs.own[:, None], 1.0)
        return pairs.mean((-F.logsigmoid(sign * logits) * pairs.counts).sum(1))
    by_image, by_text = (
        F.cross_entropy(similarity.masked_fill(~pairs.counts, IMPOSSIBLE), pairs.own, reduction="none")
        for similarity in (pairs.by_image, pairs.by_text)
    )
    return pairs.mean((by_image + by_text) / 2)
