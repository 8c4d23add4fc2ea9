"""Random pictures and texts of CoCa-Large's sizes: `benchmarks.step_time` measures time, whatever is learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from worker.data.base import Batch

PICTURES = 64
"""Number of different pictures: drawing a new one for every row would take longer than the step."""


class Random(torch.utils.data.Dataset[Batch]):
    """Random pictures, each with a random caption.

    Args:
        length: Number of rows.
        vocabulary: Number of different tokens.
        words: Tokens of a caption.
    """

    def __init__(self, length: int, vocabulary: int, words: int) -> None:
        draw = torch.Generator().manual_seed(0)
        self._length = length
        self._pictures = torch.randn(PICTURES, 3, 224, 224, generator=draw)
        self._texts = torch.randint(1, vocabulary, (PICTURES, words), generator=draw)
        self._words = torch.arange(words) > 0

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Batch:
        at = index % PICTURES
        return {
            "image": self._pictures[at],
            "text": self._texts[at],
            "answer": self._words,
            "paired": torch.tensor(True),
            "kind": torch.tensor(0),
        }

    def __getitems__(self, indices: Sequence[int]) -> list[Batch]:
        return [self[index] for index in indices]


class RandomData:
    """The data module; its metric means nothing, since the weights are random, too."""

    pad_id = 0
    vocab_size = 49408
    context_length = 76
    kinds = ("caption",)

    def __init__(self) -> None:
        self.train = Random(2**40, self.vocab_size, self.context_length)
        self.held_out = self.questions = Random(2048, self.vocab_size, self.context_length)

    def collate(self, items: Sequence[Batch]) -> Batch:
        """Stack the items."""
        return {name: torch.stack([item[name] for item in items]) for name in items[0]}

    def metrics(self, logits: Tensor, batch: Mapping[str, Tensor]) -> dict[str, tuple[float, float]]:
        """Return the number of right tokens, and of all tokens."""
        right = logits.argmax(dim=-1) == batch["text"][:, 1:]
        return {"accuracy": (float(right.sum()), float(right.numel()))}


def build(options: Mapping[str, Any]) -> RandomData:
    """Build the data of a recipe with ``name: benchmarks.step_time.data:build``."""
    return RandomData()
