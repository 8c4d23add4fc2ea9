"""This rank's stream of training batches: endless, and a pure function of seed and position."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from worker.data.base import Batch, DataModule, Rows


class _Positions(Sampler[list[int]]):
    """Rows of one rank's batches: ranks take turns in one common sequence of rows, which repeats at its end."""

    def __init__(self, size: int, batch_size: int, rank: int, world: int, start: int) -> None:
        self._size, self._batch_size = size, batch_size
        self._rank, self._world, self._start = rank, world, start

    def __iter__(self) -> Iterator[list[int]]:
        position = self._start
        while True:
            first = (position * self._world + self._rank) * self._batch_size
            yield [(first + i) % self._size for i in range(self._batch_size)]
            position += 1


def training_batches(
    data: DataModule, *, batch_size: int, rank: int, world: int, start: int, workers: int
) -> Iterator[Batch]:
    """Batches of this rank from position ``start`` on, without end.

    Loader processes are started by ``forkserver``: forking a process that has gRPC threads is unsafe (grpc
    issues 32758, 32992).
    """
    loader: DataLoader[Any] = DataLoader(
        data.train,  # type: ignore[arg-type]
        batch_sampler=_Positions(len(data.train), batch_size, rank, world, start),
        num_workers=workers,
        multiprocessing_context="forkserver" if workers else None,
        persistent_workers=bool(workers),
        collate_fn=data.collate,
        pin_memory=torch.cuda.is_available(),
    )
    return iter(loader)


def fixed_batch(data: DataModule, rows: Rows, first: int, size: int) -> Batch:
    """Rows first … first + size - 1 as one batch; wraps around at their end."""
    return data.collate(rows.__getitems__([(first + i) % len(rows) for i in range(size)]))
