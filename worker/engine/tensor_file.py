"""Files of tensors and plain values: written through to the disk, and read without running what they hold."""

import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from worker.errors import CheckpointError


def write(content: Any, path: Path) -> None:
    """Write; on return the file is on the disk. Raises OSError, for example because that is full."""
    with path.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            # torch covers a disk's error with its own complaint about the half-written file.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        file.flush()
        os.fsync(file.fileno())


def read(path: Path, map_location: Any = "cpu", classes: Sequence[Any] = ()) -> Any:
    """Read what `write` wrote.

    Args:
        path: The file.
        map_location: Where tensors go, as for ``torch.load``.
        classes: Whose objects may be in it beside tensors and plain values.

    Raises:
        CheckpointError: It holds something else.
    """
    try:
        with torch.serialization.safe_globals(list(classes)):
            return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} holds more than tensors and plain values, and is not read: {error}") from None
