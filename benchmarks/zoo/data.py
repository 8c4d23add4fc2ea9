"""The data of a tiny model: the one batch of two rows that its configuration comes with, again and again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils.data import Dataset

from benchmarks.zoo.configs import CONFIGS
from worker.data.base import Batch


class _Rows(Dataset[Any]):
    """Rows without content: all of a batch comes from `OneBatch.collate`."""

    def __len__(self) -> int:
        return 2**20

    def __getitem__(self, index: int) -> Batch:
        return {}

    def __getitems__(self, indices: Sequence[int]) -> list[Batch]:
        return [{} for _ in indices]


class OneBatch:
    """A data module whose batches are all the same.

    Args:
        name: The model's name in `CONFIGS`.
    """

    pad_id, vocab_size, context_length, kinds = 0, 40, 64, ("row",)

    def __init__(self, name: str) -> None:
        self._name = name
        self.train = self.held_out = self.questions = _Rows()

    def collate(self, items: Sequence[Batch]) -> Any:
        """Return the batch."""
        return CONFIGS[self._name].batch()

    def metrics(self, logits: Any, batch: Any) -> Mapping[str, tuple[float, float]]:
        """Return no metrics."""
        return {}


def build(options: Mapping[str, Any]) -> OneBatch:
    """Build the data of the model that the option ``name`` names."""
    return OneBatch(options["name"])
