"""An append-only file of JSON objects, one a line, that survives its writer's being killed at any moment."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from worker.errors import JournalError


class JsonLines:
    """The file; not for two threads at once.

    Raises:
        JournalError: It cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # Unbuffered: one line is one write, so that a kill tears the last line at most.
            self._file = path.open("a+b", buffering=0)
        except OSError as error:
            raise JournalError(f"the journal {path} cannot be opened: {error.strerror}") from error

    def read(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """All lines with their numbers from 1. A torn last line is cut off.

        Raises:
            JournalError: A line before the last is not a JSON object.
        """
        self._file.seek(0)
        content = self._file.read()
        end = 0
        for number, line in enumerate(content.splitlines(keepends=True), start=1):
            try:
                entry = json.loads(line)
                if not line.endswith(b"\n") or not isinstance(entry, dict):
                    raise ValueError("it is not a whole object")
            except ValueError as error:
                if end + len(line) < len(content):
                    raise JournalError(f"line {number} of the journal {self.path} cannot be read: {error}") from error
                os.truncate(self.path, end)
                return
            end += len(line)
            yield number, entry

    def append(self, entry: dict[str, Any]) -> None:
        """Write one line, whole or not at all.

        Raises:
            JournalError: It cannot be written, for example because the disk is full.
        """
        line = json.dumps(entry, ensure_ascii=False).encode() + b"\n"
        end = self._file.seek(0, os.SEEK_END)
        try:
            written = self._file.write(line)
        except (OSError, ValueError) as error:
            raise JournalError(f"the journal {self.path} cannot be written: {error}") from error
        if written != len(line):
            # Half a line, followed by others, would make the journal unreadable.
            os.truncate(self.path, end)
            raise JournalError(f"the journal {self.path} cannot be written: the disk is full")

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._file.close()
