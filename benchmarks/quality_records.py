"""Finished runs of a grid, a JSON file each; processes beside each other never do one twice."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Records:
    """A folder of records. A run is held by a lock on its file, which the system lets go of when its process dies: an
    interrupted run is begun anew."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def read(self, run: str) -> Any | None:
        """What came of a run; None if it is not finished."""
        path = self._directory / f"{run}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    @contextmanager
    def claim(self, run: str) -> Iterator[bool]:
        """Whether the run is this process's to do: not finished, and held by no other."""
        with (self._directory / f"{run}.lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield self.read(run) is None

    def write(self, run: str, record: Any) -> None:
        """A run is finished; its record is there whole or not at all."""
        draft = self._directory / f"{run}.tmp"
        draft.write_text(json.dumps(record, allow_nan=False) + "\n", encoding="utf-8")
        draft.replace(self._directory / f"{run}.json")
