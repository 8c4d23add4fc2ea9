"""How near a student's sentence vectors are to the teacher's: by themselves, and by their neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from torch import Tensor

NEIGHBOURS = 10


def encode(model: Path, sentences: Sequence[str]) -> Tensor:
    """Return the normalised vectors [N, width] of sentences, by the model in a directory."""
    encoder = SentenceTransformer(str(model), device="cpu")
    vectors = encoder.encode(list(sentences), batch_size=64, convert_to_tensor=True, show_progress_bar=False)
    return F.normalize(vectors.float(), dim=-1)


def compare(student: Tensor, teacher: Tensor) -> dict[str, float]:
    """Compare vectors [N, width] of the same sentences.

    Returns:
        ``cosine``: the mean cosine of a sentence's two vectors. ``neighbours``: how many of its ten nearest sentences
        among the N by the teacher's vectors are so by the student's, as a share.
    """
    ours, theirs = (_nearest(vectors) for vectors in (student, teacher))
    shared = (ours[:, :, None] == theirs[:, None, :]).any(-1).double().mean()
    return {"cosine": float((student * teacher).sum(-1).mean()), "neighbours": float(shared)}


def _nearest(vectors: Tensor) -> Tensor:
    similarity = vectors @ vectors.T
    # A sentence is no neighbour of itself.
    return similarity.fill_diagonal_(-torch.inf).topk(NEIGHBOURS).indices
