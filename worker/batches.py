"""This rank's stream of training batches: endless, and a pure function of seed and position."""

import atexit
import multiprocessing
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
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
    if not workers:
        return iter(loader)
    with _deaf_children():
        return iter(loader)


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Processes started within, and their children, hear neither SIGTERM nor Ctrl-C.

    Both reach every process of a job, and this one must be able to finish its step and save. Signals that are blocked
    here stay so in children.
    """
    # It unblocks both signals after it has started; so it must be there before.
    resource_tracker.ensure_running()
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    # A loader ends with its iterator. Where an error has kept that alive, the interpreter would send SIGTERM, and wait.
    atexit.register(_kill_children)


def _kill_children() -> None:
    for child in multiprocessing.active_children():
        child.kill()


def fixed_batch(data: DataModule, rows: Rows, first: int, size: int) -> Batch:
    """Rows first … first + size - 1 as one batch; wraps around at their end."""
    return data.collate(rows.__getitems__([(first + i) % len(rows) for i in range(size)]))
