"""A map-style dataset without end: every epoch in another order, and any position of it at once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from worker.data.base import Batch
from worker.data.counter import shuffled


class Shuffled(Dataset[Batch]):
    """Items 0 … n - 1 are the first epoch of a dataset of n items, the next n its second epoch, and so on.

    Every epoch has every item once, in an order that seed and epoch alone decide.

    Args:
        dataset: Anything with ``__len__`` and ``__getitem__``; ``__getitems__`` is used where there is one.
            Where it has ``of_epoch(index, epoch)``, that is asked instead: its items differ between epochs.
        seed: Of the orders.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        if len(dataset) == 0:
            raise ValueError("the dataset is empty: there is nothing to train on")
        self._dataset, self._seed = dataset, seed

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Batch]:
        found = [self._at(index) for index in indices]
        if hasattr(self._dataset, "of_epoch"):
            return [self._dataset.of_epoch(at, epoch) for at, epoch in found]
        if hasattr(self._dataset, "__getitems__"):
            return list(self._dataset.__getitems__([at for at, _ in found]))
        return [self._dataset[at] for at, _ in found]

    def _at(self, index: int) -> tuple[int, int]:
        """Which item it is, and of which epoch."""
        epoch, position = divmod(index, len(self._dataset))
        return int(shuffled(self._seed, epoch, len(self._dataset), np.array([position]))[0]), epoch
