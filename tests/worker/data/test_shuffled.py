"""An endless map-style dataset: every epoch is complete and in its own order; any position is reached at once."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from worker.data import Batch, Shuffled
from worker.data.counter import shuffled
from worker.data.loader import training_batches
from worker.data.pairs import stack


class Numbered:
    """Items that are their numbers."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Batch:
        return {"x": torch.tensor(index)}


class Module:
    collate = staticmethod(stack)

    def __init__(self, train: Any) -> None:
        self.train = train


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000])
def test_an_order_has_everything_once(size: int) -> None:
    orders = [shuffled(5, epoch, size, np.arange(size)).tolist() for epoch in range(3)]
    assert all(sorted(order) == list(range(size)) for order in orders)
    assert size < 64 or orders[0] != orders[1] != orders[2] != list(range(size))


def test_ranks_share_every_epoch_and_go_on_anywhere() -> None:
    module: Any = Module(Shuffled(Numbered(12), seed=3))

    def taken(rank: int, start: int, count: int) -> list[list[int]]:
        batches = training_batches(module, batch_size=3, rank=rank, world=2, start=start, workers=0)
        return [batch["x"].tolist() for batch in islice(batches, count)]

    both = [taken(rank, 0, 6) for rank in range(2)]
    for epoch in range(3):
        rows = [row for rank in both for batch in rank[2 * epoch :][:2] for row in batch]
        assert sorted(rows) == list(range(12))
    assert [taken(rank, 5, 1) for rank in range(2)] == [batches[5:] for batches in both]


def test_an_empty_dataset_is_a_sentence() -> None:
    with pytest.raises(ValueError, match="the dataset is empty"):
        Shuffled(Numbered(0), seed=0)
