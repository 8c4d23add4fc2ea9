"""The loss of the module that makes the sentence's vector; the same function as in docs/sentence-encoder.md."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from worker.distill.losses import normalised_mse


def tokens_and_sentence(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Compare hidden states [B, L, width] token by token, and the directions of their means over the tokens.

    Args:
        student: The student's.
        teacher: The teacher's.
        mask: [B, L] bool, true at tokens.
    """
    weight = mask.unsqueeze(-1).float()
    ours, theirs = ((hidden.float() * weight).sum(1) for hidden in (student, teacher))
    return normalised_mse(student, teacher, mask) + (1 - F.cosine_similarity(ours, theirs)).mean()
