"""This rank's training batches: endless, and a pure function of seed and position."""

import atexit
import multiprocessing
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from multiprocessing import forkserver, resource_tracker
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, Sampler, get_worker_info

from worker.data.base import Batch, Cursor, DataModule, Rows, Stream
from worker.errors import DataError

Taken = tuple[Batch, int, Cursor] | str
"""What a stream's loader process hands over: a batch, its lane and what follows; or why there is none."""


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


class _Lanes(IterableDataset[Taken]):
    """One rank's lanes of a stream, one for each loader process; they take turns, a batch each."""

    def __init__(
        self, data: DataModule, batch_size: int, rank: int, world: int, start: int, cursors: Mapping[int, Cursor]
    ) -> None:
        assert isinstance(data.train, Stream)
        # Not the whole data module: loader processes get a copy of what is kept here.
        self._stream, self._collate = data.train, data.collate
        self._batch_size, self._rank, self._world = batch_size, rank, world
        self._start, self._cursors = start, dict(cursors)

    def __iter__(self) -> Iterator[Taken]:
        info = get_worker_info()
        process, lanes = (info.id, info.num_workers) if info else (0, 1)
        # The first process is the first to be asked, whatever lane's turn it is.
        lane = (self._start + process) % lanes
        try:
            items = self._stream.items(self._rank * lanes + lane, self._world * lanes, self._cursors.get(lane))
            while True:
                rows = list(islice(items, self._batch_size))
                if len(rows) < self._batch_size:
                    raise DataError("the training stream has ended; it must go on with its next epoch, without end")
                yield self._collate([item for item, _ in rows]), lane, rows[-1][1]
        except DataError as error:
            # As an exception it would come out of a loader process as a traceback.
            yield str(error)


def _as_is(taken: Any) -> Any:
    # The loader's default would make lists of tuples.
    return taken


class TrainingBatches(Iterator[Batch]):
    """Batches of one rank, without end.

    Attributes:
        cursors: Where each of this rank's lanes of a stream goes on, after the batches that were taken; what was only
            prefetched does not count.
    """

    def __init__(self, loader: Iterator[Any], cursors: Mapping[int, Cursor], *, stream: bool) -> None:
        self._loader, self._stream = loader, stream
        self.cursors = dict(cursors)

    def __next__(self) -> Batch:
        taken = next(self._loader)
        if not self._stream:
            batch: Batch = taken
            return batch
        if isinstance(taken, str):
            raise DataError(taken)
        batch, lane, cursor = taken
        # Pinning makes a list of a tuple.
        self.cursors[lane] = tuple(cursor)
        return batch


def training_batches(
    data: DataModule,
    *,
    batch_size: int,
    rank: int,
    world: int,
    start: int,
    workers: int,
    cursors: Mapping[int, Cursor] | None = None,
    prefetch: int = 2,
) -> TrainingBatches:
    """Batches of this rank from position ``start`` on, which for a stream its ``cursors`` belong to.

    Loader processes are started by ``forkserver``: forking a process that has gRPC threads is unsafe (grpc
    issues 32758, 32992). Each keeps ``prefetch`` batches ready.
    """
    train = data.train
    how: dict[str, Any] = {
        "num_workers": workers,
        "multiprocessing_context": "forkserver" if workers else None,
        "persistent_workers": bool(workers),
        "prefetch_factor": prefetch if workers else None,
        "pin_memory": torch.cuda.is_available(),
    }
    loader: DataLoader[Any]
    if isinstance(train, Stream):
        lanes = _Lanes(data, batch_size, rank, world, start, cursors or {})
        loader = DataLoader(lanes, batch_size=None, collate_fn=_as_is, **how)
    else:
        order = _Positions(len(train), batch_size, rank, world, start)
        loader = DataLoader(train, batch_sampler=order, collate_fn=data.collate, **how)  # type: ignore[arg-type]
    if not workers:
        return TrainingBatches(iter(loader), cursors or {}, stream=isinstance(train, Stream))
    with _deaf_children():
        return TrainingBatches(iter(loader), cursors or {}, stream=isinstance(train, Stream))


def await_loaders() -> None:
    """Start the process from which loader processes will come.

    It imports torch and our data modules once for all of them, and beside what this one imports meanwhile: four of them
    then take a quarter of the seconds and of the memory until the first batch is there.
    """
    multiprocessing.set_forkserver_preload(["__main__", "worker.data.loader", "worker.data"])
    with _deaf_children():
        forkserver.ensure_running()


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


def first_batches(data: DataModule, *, count: int, size: int, rank: int = 0, world: int = 1) -> list[Batch]:
    """A rank's first training batches, read here; they will be trained on all the same."""
    train = data.train
    if isinstance(train, Stream):
        items = train.items(rank, world, None)
        return [data.collate([item for item, _ in islice(items, size)]) for _ in range(count)]
    return [fixed_batch(data, train, (index * world + rank) * size, size) for index in range(count)]
