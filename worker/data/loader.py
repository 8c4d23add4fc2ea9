"""The training batches of a rank: endless, and a pure function of seed and position."""

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

LaneBatch = tuple[Batch, int, Cursor] | str
"""A batch from a loader process of a stream, its lane and the cursor after it; or the message of a DataError."""


class _Positions(Sampler[list[int]]):
    """The rows of one rank's batches: ranks take turns in one common, repeating sequence of rows."""

    def __init__(self, size: int, batch_size: int, rank: int, world: int, start: int) -> None:
        self._size, self._batch_size = size, batch_size
        self._rank, self._world, self._start = rank, world, start

    def __iter__(self) -> Iterator[list[int]]:
        position = self._start
        while True:
            first = (position * self._world + self._rank) * self._batch_size
            yield [(first + i) % self._size for i in range(self._batch_size)]
            position += 1


class _Lanes(IterableDataset[LaneBatch]):
    """One rank's lanes of a stream, one per loader process; they take turns, one batch each."""

    def __init__(
        self, data: DataModule, batch_size: int, rank: int, world: int, start: int, cursors: Mapping[int, Cursor]
    ) -> None:
        assert isinstance(data.train, Stream)
        # Not the whole data module: this object is copied to the loader processes.
        self._stream, self._collate = data.train, data.collate
        self._batch_size, self._rank, self._world = batch_size, rank, world
        self._start, self._cursors = start, dict(cursors)

    def __iter__(self) -> Iterator[LaneBatch]:
        info = get_worker_info()
        process, lanes = (info.id, info.num_workers) if info else (0, 1)
        # The loader always asks the first process first, so that process gets the lane whose turn it is.
        lane = (self._start + process) % lanes
        try:
            items = self._stream.items(self._rank * lanes + lane, self._world * lanes, self._cursors.get(lane))
            while True:
                rows = list(islice(items, self._batch_size))
                if len(rows) < self._batch_size:
                    raise DataError(
                        "the training stream has ended; a stream must continue with its next epoch, endlessly"
                    )
                yield self._collate([item for item, _ in rows]), lane, rows[-1][1]
        except DataError as error:
            # An exception in a loader process would be shown as a traceback.
            yield str(error)


def _unchanged(batch: Any) -> Any:
    # The default of DataLoader would convert tuples to lists.
    return batch


class TrainingBatches(Iterator[Batch]):
    """The endless training batches of one rank.

    Args:
        loader: Yields batches, or for a stream `LaneBatch`.
        cursors: Where each lane of a stream continues.
        stream: Whether the data is a stream.

    Attributes:
        cursors: Where each of this rank's lanes of a stream continues after the batches taken so far; prefetched
            batches do not count.
    """

    def __init__(self, loader: Iterator[Any], cursors: Mapping[int, Cursor], *, stream: bool) -> None:
        self._loader, self._stream = loader, stream
        self.cursors = dict(cursors)

    def __next__(self) -> Batch:
        loaded = next(self._loader)
        if not self._stream:
            batch: Batch = loaded
            return batch
        if isinstance(loaded, str):
            raise DataError(loaded)
        batch, lane, cursor = loaded
        # Pinning converts tuples to lists.
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
    """Return the batches of a rank from position ``start`` on.

    Loader processes are started by ``forkserver``: forking a process that has gRPC threads is unsafe (grpc
    issues 32758, 32992).

    Args:
        data: The data module.
        batch_size: Rows in a batch.
        rank: This rank.
        world: The number of ranks.
        start: The number of batches that this rank has already taken.
        workers: The number of loader processes; 0 loads in this process.
        cursors: Where each lane of a stream continues, as of ``start``.
        prefetch: The number of batches that each loader process prepares in advance.
    """
    train = data.train
    settings: dict[str, Any] = {
        "num_workers": workers,
        "multiprocessing_context": "forkserver" if workers else None,
        "persistent_workers": bool(workers),
        "prefetch_factor": prefetch if workers else None,
        "pin_memory": torch.cuda.is_available(),
    }
    loader: DataLoader[Any]
    if isinstance(train, Stream):
        lanes = _Lanes(data, batch_size, rank, world, start, cursors or {})
        loader = DataLoader(lanes, batch_size=None, collate_fn=_unchanged, **settings)
    else:
        order = _Positions(len(train), batch_size, rank, world, start)
        loader = DataLoader(train, batch_sampler=order, collate_fn=data.collate, **settings)  # type: ignore[arg-type]
    if not workers:
        return TrainingBatches(iter(loader), cursors or {}, stream=isinstance(train, Stream))
    with _signals_blocked_in_children():
        return TrainingBatches(iter(loader), cursors or {}, stream=isinstance(train, Stream))


def start_fork_server() -> None:
    """Start the fork server from which loader processes will be forked.

    It imports torch and our data modules once for all of them, while this process goes on with its own imports: with
    four loader processes, the first batch then takes a quarter of the time and of the memory.
    """
    multiprocessing.set_forkserver_preload(["__main__", "worker.data.loader", "worker.data"])
    with _signals_blocked_in_children():
        forkserver.ensure_running()


@contextmanager
def _signals_blocked_in_children() -> Iterator[None]:
    """Block SIGTERM and Ctrl-C in processes started within, and in their children.

    Both signals reach every process of a job, and this one must be able to finish its step and save. Children inherit
    the blocked signals.
    """
    # Starting the resource tracker unblocks both signals, so it must run before they are blocked.
    resource_tracker.ensure_running()
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    # A loader ends with its iterator. If an error keeps the iterator alive, the interpreter would send SIGTERM and wait
    # forever.
    atexit.register(_kill_children)


def _kill_children() -> None:
    for child in multiprocessing.active_children():
        child.kill()


def fixed_batch(data: DataModule, rows: Rows, first: int, size: int) -> Batch:
    """Return the rows first … first + size - 1 as one batch, wrapping around at the end."""
    return data.collate(rows.__getitems__([(first + i) % len(rows) for i in range(size)]))


def first_batches(data: DataModule, *, count: int, size: int, rank: int = 0, world: int = 1) -> list[Batch]:
    """Read a rank's first training batches in this process; training will use them too."""
    train = data.train
    if isinstance(train, Stream):
        items = train.items(rank, world, None)
        return [data.collate([item for item, _ in islice(items, size)]) for _ in range(count)]
    return [fixed_batch(data, train, (index * world + rank) * size, size) for index in range(count)]
