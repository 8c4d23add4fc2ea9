"""A worker's output directory is one process's at a time: the lock is on the file that holds the worker's id."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from worker.errors import WorkerError

ID_FILE = "worker-id"


def lock(directory: Path, taken: str) -> int | None:
    """Keep every other process out of a directory until this one ends, however it ends, or closes the handle.

    Args:
        directory: The worker's output.
        taken: The sentence for where another process has it.

    Returns:
        The handle, which children do not inherit. None on a file system that knows no locks, as some network ones: the
        server's fencing is what is left.

    Raises:
        WorkerError: Another process has it.
    """
    handle = os.open(directory / ID_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if isinstance(error, BlockingIOError):
            raise WorkerError(taken) from None
        return None
    return handle
