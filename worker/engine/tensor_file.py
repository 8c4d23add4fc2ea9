"""Files of tensors and plain values: flushed to the disk when written, and read without unpickling code."""

import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from worker.errors import CheckpointError


def write(content: Any, path: Path) -> None:
    """Write a file and flush it to the disk.

    Args:
        content: Tensors and plain values, nested as ``torch.save`` allows.
        path: The file.

    Raises:
        OSError: The file cannot be written, for example because the disk is full.
    """
    with path.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            # torch hides the OSError of the disk behind its own complaint about the unfinished file.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        file.flush()
        os.fsync(file.fileno())


def read(path: Path, map_location: Any = "cpu", classes: Sequence[Any] = ()) -> Any:
    """Read a file that `write` wrote.

    Args:
        path: The file.
        map_location: The device for tensors, as in ``torch.load``.
        classes: Classes whose objects are allowed beside tensors and plain values.

    Raises:
        CheckpointError: The file holds an object of another class.
    """
    try:
        with torch.serialization.safe_globals(list(classes)):
            return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} holds more than tensors and plain values, and is not read: {error}") from None
