"""Pictures and texts of chance in CoCa-Large's sizes: `benchmarks.step_time` times the work, whatever is learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from worker.data.base import Batch

PICTURES = 64
"""Different ones; drawing a new one for every row would take longer than the step."""


class Chance(torch.utils.data.Dataset[Batch]):
    """A picture and a caption for each index."""

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


class ChanceData:
    """The data module; its metric is next to nothing, as the weights are of chance, too."""

    pad_id = 0
    vocab_size = 49408
    context_length = 76
    kinds = ("caption",)

    def __init__(self) -> None:
        self.train = Chance(2**40, self.vocab_size, self.context_length)
        self.held_out = self.questions = Chance(2048, self.vocab_size, self.context_length)

    def collate(self, items: Sequence[Batch]) -> Batch:
        """Stacked."""
        return {name: torch.stack([item[name] for item in items]) for name in items[0]}

    def metrics(self, logits: Tensor, batch: Mapping[str, Tensor]) -> dict[str, tuple[float, float]]:
        """Words that come out right."""
        right = logits.argmax(dim=-1) == batch["text"][:, 1:]
        return {"accuracy": (float(right.sum()), float(right.numel()))}


def build(options: Mapping[str, Any]) -> ChanceData:
    """A recipe's data: ``name: benchmarks.step_time.data:build``."""
    return ChanceData()
