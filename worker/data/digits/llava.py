"""The digits' items as a LLaVA of transformers reads them: picture tokens, question and answer in one text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from worker.data.base import Batch
from worker.data.digits.rows import CELL, MEAN, SIZE, STD, Collages
from worker.data.digits.text import CONTEXT_LENGTH, TOKEN_IDS, VOCABULARY, decode

PATCH = CELL
"""Width and height of a patch, in pixels. Every patch is one picture token, and shows one digit."""
PICTURE_TOKENS = (SIZE // PATCH) ** 2
PICTURE, UNKNOWN = "<image>", "<unknown>"
LLAVA_VOCABULARY = (*VOCABULARY, PICTURE, UNKNOWN)
PICTURE_ID = LLAVA_VOCABULARY.index(PICTURE)
LLAVA_CONTEXT_LENGTH = CONTEXT_LENGTH + PICTURE_TOKENS
WHITE = 240
"""The brightest pixel of a picture file. The scans have 16 steps of brightness, which a file holds exactly if each is
15 of its 255."""
IGNORED = -100
"""The label of positions that are not predicted, as everywhere in transformers."""


class LlavaRows(Collages):
    """Collages as the arguments of ``LlavaForConditionalGeneration.forward``.

    - ``pixel_values`` [B, 3, 16, 16] float32, normalised.
    - ``input_ids`` [B, L] int64: start token, picture tokens, text, end token, padded at the end.
    - ``attention_mask`` [B, L] int64: 0 at padding.
    - ``labels`` [B, L] int64: the tokens of the answer and the end token, -100 elsewhere.
    - ``kind`` [B] int64: index into ``KINDS``.
    """

    def batch(self, indices: npt.NDArray[np.int64]) -> Batch:
        """Return the items at these indices, stacked."""
        batch = super().batch(indices)
        text, answer = batch["text"], batch["answer"]
        pictures = torch.full((len(text), PICTURE_TOKENS), PICTURE_ID)
        labels = text.masked_fill(~answer, IGNORED)
        token_ids = torch.cat([text[:, :1], pictures, text[:, 1:]], dim=1)
        return {
            "pixel_values": batch["image"],
            "input_ids": token_ids,
            "attention_mask": (token_ids != TOKEN_IDS["<pad>"]).long(),
            "labels": torch.cat([labels[:, :1], torch.full_like(pictures, IGNORED), labels[:, 1:]], dim=1),
            "kind": batch["kind"],
        }


@dataclass(frozen=True)
class Example:
    """An item for people, and for the processor of a model.

    Attributes:
        picture: The collage.
        prompt: ``<image>`` and the question.
        answer: The right answer.
    """

    picture: Image.Image
    prompt: str
    answer: str


def examples(batch: Batch) -> Iterator[Example]:
    """Yield the items of a batch of `LlavaRows`."""
    for pixels, token_ids, labels in zip(batch["pixel_values"], batch["input_ids"], batch["labels"], strict=True):
        asked = token_ids[(labels == IGNORED) & (token_ids != PICTURE_ID)]
        answer = labels[labels != IGNORED]
        yield Example(_picture(pixels), f"{PICTURE} {decode(asked.numpy())}", decode(answer.numpy()))


def _picture(pixels: Tensor) -> Image.Image:
    """Return a picture of normalised pixels [3, H, W]."""
    grey = ((pixels[0] * STD + MEAN) * WHITE).round().clamp(0, WHITE).to(torch.uint8)
    return Image.fromarray(grey.numpy()).convert("RGB")
