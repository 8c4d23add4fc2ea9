"""An endless map-style dataset: each epoch in its own order, and every position reachable at once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from worker.data.base import Batch
from worker.data.counter import shuffled


class Shuffled(Dataset[Batch]):
    """An endless, shuffled view of a dataset of n items: 0 … n - 1 are its first epoch, the next n its second.

    Every epoch has every item once, in an order that depends on seed and epoch alone.

    Args:
        dataset: Anything with ``__len__`` and ``__getitem__``; ``__getitems__`` is used if there is one. If it has
            ``of_epoch(index, epoch)``, that is called instead: its items differ between epochs.
        seed: Seed of the orders.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        if len(dataset) == 0:
            raise ValueError("the dataset is empty; training needs at least one item")
        self._dataset, self._seed = dataset, seed

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Batch]:
        places = [self._place(index) for index in indices]
        if hasattr(self._dataset, "of_epoch"):
            return [self._dataset.of_epoch(item, epoch) for item, epoch in places]
        if hasattr(self._dataset, "__getitems__"):
            return list(self._dataset.__getitems__([item for item, _ in places]))
        return [self._dataset[item] for item, _ in places]

    def _place(self, index: int) -> tuple[int, int]:
        """Return the item in the dataset and the epoch that an index stands for."""
        epoch, position = divmod(index, len(self._dataset))
        return int(shuffled(self._seed, epoch, len(self._dataset), np.array([position]))[0]), epoch
